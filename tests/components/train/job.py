"""Small training runs: their arguments, and training in separate processes on one or several devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

from imgpipe.components.train.arguments import TrainingArguments
from tests.servers.faulty_bucket import free_port

# Configures several virtual devices on the CPU, then runs the command line.
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


def job_arguments(dataset: Path, job_dir: Path, **values: object) -> list[str]:
    """Returns the command-line arguments of a small training run."""
    settings = {
        "max_steps": 3,
        "train_batch_size": 12,
        "model_type": "resnet-18",
        "weights": "none",
        "image_size": 32,
        "train_steps_per_eval": 1,
        "initial_learning_rate": 0.001,
        "mixed_precision": "off",
        # With these initial weights a step is well conditioned: rounding errors stay small. Other seeds start
        # with a validation loss of 6, which amplifies them a thousand times.
        "seed": 2,
        **values,
    }
    return [
        f"--training_data_path={dataset}/train-*",
        f"--validation_data_path={dataset}/validation-*",
        f"--job-dir={job_dir}",
        *(f"--{name}={value}" for name, value in settings.items()),
    ]


def small_training(**values: object) -> TrainingArguments:
    """Returns the settings of a training run of two steps."""
    settings = {"max_steps": 2, "train_batch_size": 4, "model_type": "resnet-18", "image_size": 32}
    return TrainingArguments(**{**settings, "weights": "none", **values})


def start(
    arguments: list[str], *, devices: int = 1, environment: dict[str, str] | None = None
) -> subprocess.Popen:
    """Starts the job."""
    command = (
        [sys.executable, "-m", "imgpipe.components.train"]
        if devices == 1
        else [sys.executable, "-c", _SEVERAL_DEVICES, str(devices)]
    )
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def start_workers(arguments_of_workers: list[list[str]]) -> list[subprocess.Popen]:
    """Starts one process per worker, in a cluster on loopback addresses; the first one is the chief."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in arguments_of_workers]
    cluster = {"chief": addresses[:1], "worker": addresses[1:]}
    tasks = [("chief", 0), *(("worker", index) for index in range(len(addresses) - 1))]
    return [
        start(
            arguments,
            environment={
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
            },
        )
        for arguments, (role, index) in zip(arguments_of_workers, tasks, strict=True)
    ]


def wait_for_exit(process: subprocess.Popen, *, status: int = 0) -> str:
    """Waits until a job exits and returns its output."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == status, output
    return output


def evaluations(job_dir: Path) -> list[dict[str, float]]:
    """Returns the evaluations that a job reported."""
    return [json.loads(line) for line in (job_dir / "metrics.jsonl").read_text().splitlines()]
