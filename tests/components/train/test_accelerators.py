import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.train.accelerators import find_accelerators
from tests.waiting import wait_until

from .job import evaluations, job_arguments, start, start_workers, wait_for_exit


@pytest.fixture(scope="module")
def data(coloured_dataset, tmp_path_factory):
    # 13 validation images are not divisible by any number of devices.
    return coloured_dataset(tmp_path_factory.mktemp("data"), train=48, validation=13, shards=2)


@pytest.fixture(scope="module")
def on_one_device(data, tmp_path_factory):
    job_dir = tmp_path_factory.mktemp("one")
    wait_for_exit(start(job_arguments(data, job_dir)))
    return evaluations(job_dir)


def assert_close(actual, expected):
    """Several devices sum in another order, and each step amplifies the rounding errors of earlier ones."""
    for one, reference, tolerance in zip(actual, expected, (1e-5, 1e-4, 1e-3), strict=True):
        assert one["step"] == reference["step"]
        assert one["train_loss"] == pytest.approx(reference["train_loss"], rel=tolerance)
        assert one["loss"] == pytest.approx(reference["loss"], rel=10 * tolerance)
        # Each of the 13 images was counted once.
        assert one["top_1_accuracy"] * 13 == pytest.approx(round(one["top_1_accuracy"] * 13), abs=1e-9)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.proof)])
def test_several_devices_agree_with_one(data, on_one_device, tmp_path, devices):
    output = wait_for_exit(start(job_arguments(data, tmp_path / "job"), devices=devices))
    assert f"on {devices} x CPU" in output
    assert_close(evaluations(tmp_path / "job"), on_one_device)
    assert (tmp_path / "job" / "model" / "saved_model.pb").is_file()


def test_two_workers_agree_with_one_and_only_the_chief_writes(data, on_one_device, tmp_path):
    chief, worker = start_workers(
        [job_arguments(data, tmp_path / "chief"), job_arguments(data, tmp_path / "worker")]
    )
    output = wait_for_exit(chief)
    wait_for_exit(worker)
    assert "on 2 x CPU in 2 processes" in output
    assert_close(evaluations(tmp_path / "chief"), on_one_device)
    assert (tmp_path / "chief" / "model" / "saved_model.pb").is_file()
    assert list((tmp_path / "worker").iterdir()) == []


@pytest.mark.proof
def test_workers_resume_after_one_of_them_was_killed(data, tmp_path):
    chief, worker = start_workers([job_arguments(data, tmp_path / "chief", max_steps=400)] * 2)
    wait_until((tmp_path / "chief" / "checkpoints" / "step-00000002.npz").exists, 240, process=chief)
    worker.kill()
    output = wait_for_exit(chief, status=75)
    wait_for_exit(worker, status=-9)
    assert "one of the 2 workers no longer responds" in output
    # Both share the job_dir and resume from its last checkpoint.
    steps = [evaluation["step"] for evaluation in evaluations(tmp_path / "chief")]
    for process in start_workers([job_arguments(data, tmp_path / "chief", max_steps=steps[-1] + 1)] * 2):
        assert "resuming from the checkpoint of step" in wait_for_exit(process)
    resumed_steps = [evaluation["step"] for evaluation in evaluations(tmp_path / "chief")]
    assert resumed_steps == [*steps, steps[-1] + 1]


def test_a_batch_that_cannot_be_split_is_rejected_before_any_step(data, tmp_path):
    output = wait_for_exit(start(job_arguments(data, tmp_path, train_batch_size=9), devices=2), status=64)
    assert "train_batch_size=9 cannot be split across 2 devices" in output
    assert "to a multiple of 2" in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is malformed"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "is malformed"),
        ('["a:1", "b:1"]', "is malformed"),
        ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}', "is 'ps'"),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "evaluator", "index": 0}}',
            "is 'evaluator'",
        ),
    ],
)
def test_an_invalid_cluster_is_rejected(text, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InvalidArgumentError, match=message):
        find_accelerators()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{}",
        '{"task": {"type": "chief", "index": 0}}',
        '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_cluster_of_one_host_is_ignored(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    accelerators = find_accelerators()
    assert (accelerators.workers, accelerators.replicas, accelerators.is_chief) == (1, 1, True)
    assert accelerators.part == (0, 1)
    np.testing.assert_array_equal(accelerators.sum_over_workers(np.arange(3.0)), np.arange(3.0))


def test_the_wait_for_other_workers_is_reported_and_limited():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # No worker responds at the first address; this worker leads the cluster.
    cluster = {"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]}
    code = (
        "from imgpipe.components.train import accelerators\n"
        "accelerators._SECONDS_TO_JOIN = 0.5\n"
        "accelerators.find_accelerators()"
    )
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
    environment = {**os.environ, "TF_CONFIG": config}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.wait(timeout=120) == 1
        finally:
            # Nothing else ends it.
            process.kill()
        event = json.loads(process.stdout.read())
    assert event["severity"] == "WARNING"
    assert "worker 1 of 2, as TF_CONFIG says: waiting at most" in event["message"]
    assert "minutes for 127.0.0.1:1; unset TF_CONFIG" in event["message"]


def test_a_gpu_that_tensorflow_does_not_see_is_logged_unless_it_is_hidden(tmp_path, capsys, monkeypatch):
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_accelerators(tmp_path).kind == "CPU"
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert find_accelerators(tmp_path).kind == "CPU"
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["severity"]) == ("gpu_not_usable", "WARNING")
    assert event["devices"] == ["nvidia0"]


def test_one_core_of_a_tpu_computes_in_its_strategy_and_trains_like_a_cpu(data, on_one_device, tmp_path):
    """On this machine, a strategy of one CPU stands in for the core: without it, a TPU would stay idle."""
    code = (
        "import sys\n"
        "from imgpipe.components.common.tf_import import tf\n"
        "from imgpipe.components.train import train\n"
        "from imgpipe.components.train.__main__ import main\n"
        "from imgpipe.components.train.accelerators import TPU, Accelerators\n"
        "strategy = tf.distribute.MirroredStrategy(['CPU:0'])\n"
        "ran, run = [], strategy.run\n"
        "strategy.run = lambda *values, **options: ran.append(values) or run(*values, **options)\n"
        "train.find_accelerators = lambda: Accelerators(strategy, TPU)\n"
        "main(sys.argv[1:])\n"
        "assert ran\n"
    )
    command = [sys.executable, "-c", code, *job_arguments(data, tmp_path / "job")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "on TPU" in result.stdout
    assert_close(evaluations(tmp_path / "job"), on_one_device)
    assert (tmp_path / "job" / "model" / "saved_model.pb").is_file()
