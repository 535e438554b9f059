"""Runs the training job's command line in processes of its own, on as many devices as asked for."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

# Gives the processor's cores the look of several devices, then does what the command line does.
_SEVERAL_DEVICES = """
import sys
from imgpipe.components.common.tf_import import tf
from imgpipe.components.common.step import run_command
from imgpipe.components.train.__main__ import main
devices = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
run_command("train", lambda: main(sys.argv[2:]))
"""


def words_for(dataset: Path, job_dir: Path, **values: object) -> list[str]:
    """Returns the command line's words for a small training."""
    settings = {
        "max_steps": 3,
        "train_batch_size": 12,
        "model_type": "resnet-18",
        "weights": "none",
        "image_size": 32,
        "train_steps_per_eval": 1,
        "initial_learning_rate": 0.001,
        "mixed_precision": "off",
        # From these first weights a step is well conditioned: what rounding changes stays as small as it
        # is. Others start with a validation loss of 6 that makes a thousand times more of it.
        "seed": 2,
        **values,
    }
    return [
        f"--training_data_path={dataset}/train-*",
        f"--validation_data_path={dataset}/validation-*",
        f"--job-dir={job_dir}",
        *(f"--{name}={value}" for name, value in settings.items()),
    ]


def start(
    words: list[str], *, devices: int = 1, environment: dict[str, str] | None = None
) -> subprocess.Popen:
    """Starts the job."""
    command = (
        [sys.executable, "-m", "imgpipe.components.train"]
        if devices == 1
        else [sys.executable, "-c", _SEVERAL_DEVICES, str(devices)]
    )
    return subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def start_workers(words_of_worker: list[list[str]]) -> list[subprocess.Popen]:
    """Starts one process a worker, each with the same cluster on loopback addresses; the first is chief."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(len(words_of_worker))]
    cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    tasks = [("chief", 0), *(("worker", index) for index in range(len(addresses) - 1))]
    return [
        start(
            words,
            environment={
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
            },
        )
        for words, (role, index) in zip(words_of_worker, tasks, strict=True)
    ]


def finished(process: subprocess.Popen, *, status: int = 0) -> str:
    """Waits for a job and returns its output."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Waits until a running job has written a file."""
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def evaluations(job_dir: Path) -> list[dict[str, float]]:
    """Returns the evaluations that a job reported."""
    return [json.loads(line) for line in (job_dir / "metrics.jsonl").read_text().splitlines()]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
