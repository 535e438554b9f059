import json

import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.train.accelerators import find_accelerators

from .job import evaluations, finished, start, start_workers, wait_for, words_for


@pytest.fixture(scope="module")
def data(coloured_dataset, tmp_path_factory):
    # 13 validation images: no number of devices divides them.
    return coloured_dataset(tmp_path_factory.mktemp("data"), train=48, validation=13, shards=2)


@pytest.fixture(scope="module")
def on_one_device(data, tmp_path_factory):
    job_dir = tmp_path_factory.mktemp("one")
    finished(start(words_for(data, job_dir)))
    return evaluations(job_dir)


def assert_alike(ones, others):
    """A step that is cut into parts adds its numbers up in another order; later steps make more of it."""
    for one, other, tolerance in zip(ones, others, (1e-5, 1e-4, 1e-3), strict=True):
        assert one["step"] == other["step"]
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=tolerance)
        assert other["loss"] == pytest.approx(one["loss"], rel=10 * tolerance)
        # 13 images: none of them was counted twice or left out.
        assert other["top_1_accuracy"] * 13 == pytest.approx(round(other["top_1_accuracy"] * 13), abs=1e-9)


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.proof)])
def test_several_devices_come_to_what_one_does(data, on_one_device, tmp_path, devices):
    output = finished(start(words_for(data, tmp_path / "job"), devices=devices))
    assert f"on {devices} x CPU" in output
    assert_alike(on_one_device, evaluations(tmp_path / "job"))
    assert (tmp_path / "job" / "model" / "saved_model.pb").is_file()


def test_two_workers_on_loopback_come_to_what_one_does_and_the_chief_alone_writes(
    data, on_one_device, tmp_path
):
    chief, worker = start_workers([words_for(data, tmp_path / "chief"), words_for(data, tmp_path / "worker")])
    output = finished(chief)
    finished(worker)
    assert "on 2 x CPU in 2 processes" in output
    assert_alike(on_one_device, evaluations(tmp_path / "chief"))
    assert (tmp_path / "chief" / "model" / "saved_model.pb").is_file()
    assert list((tmp_path / "worker").iterdir()) == []


@pytest.mark.proof
def test_when_a_worker_is_killed_the_chief_says_so_and_both_go_on_later(data, tmp_path):
    jobs = [
        words_for(data, tmp_path / "chief", max_steps=400),
        words_for(data, tmp_path / "chief", max_steps=400),
    ]
    chief, worker = start_workers(jobs)
    wait_for(tmp_path / "chief" / "checkpoints" / "step-00000002.npz", chief)
    worker.kill()
    output = finished(chief, status=75)
    finished(worker, status=-9)
    assert "one of the 2 workers does not answer any more" in output
    # Both see the job_dir, and go on from its last checkpoint.
    steps = [one["step"] for one in evaluations(tmp_path / "chief")]
    jobs = [words_for(data, tmp_path / "chief", max_steps=steps[-1] + 1) for _ in range(2)]
    for process in start_workers(jobs):
        assert "goes on from the checkpoint of step" in finished(process)
    assert [one["step"] for one in evaluations(tmp_path / "chief")] == [*steps, steps[-1] + 1]


def test_a_batch_that_cannot_be_shared_out_is_refused_before_any_step(data, tmp_path):
    output = finished(start(words_for(data, tmp_path, train_batch_size=9), devices=2), status=64)
    assert "train_batch_size=9 cannot be shared out among 2 devices" in output
    assert "give a multiple of 2" in output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be understood"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "cannot be understood"),
        ('["a:1", "b:1"]', "cannot be understood"),
        ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}', "is a ps"),
        (
            '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "evaluator", "index": 0}}',
            "is a evaluator",
        ),
    ],
)
def test_a_cluster_that_cannot_be_understood_is_refused(text, said, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InvalidArgumentError, match=said):
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
def test_a_cluster_of_one_host_is_no_cluster(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    accelerators = find_accelerators()
    assert (accelerators.workers, accelerators.replicas, accelerators.is_chief) == (1, 1, True)
    assert accelerators.part == (0, 1)
    np.testing.assert_array_equal(accelerators.summed_over_workers(np.arange(3.0)), np.arange(3.0))


def test_a_gpu_that_tensorflow_does_not_see_is_told_unless_it_was_hidden(tmp_path, capsys, monkeypatch):
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
