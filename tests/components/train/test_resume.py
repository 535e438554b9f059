"""Resumes interrupted training runs of the real command line."""

import json
import signal
import time

import pytest

from tests.waiting import wait_until

from .job import evaluations, job_arguments, start, wait_for_exit

EXIT_INTERRUPTED = 75


@pytest.fixture(scope="module")
def data(coloured_dataset, tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data"), train=24, validation=6)


def settings(**values):
    return {"max_steps": 8, "train_steps_per_eval": 3, "deterministic": "true", **values}


def weights(job_dir):
    return (job_dir / "model" / "variables" / "variables.data-00000-of-00001").read_bytes()


# With dropout, augmentation and mixup, i.e. all kinds of random numbers.
RANDOM = {"model_type": "efficientnet-b0", "augmentation": "crop-flip", "mixup": 0.2, "ema": 0.9}


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ({}, signal.SIGTERM),
        ({}, signal.SIGKILL),
        pytest.param(RANDOM, signal.SIGTERM, marks=pytest.mark.proof),
    ],
    ids=["SIGTERM", "SIGKILL", "everything random"],
)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(data, tmp_path, values, number):
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    wait_for_exit(start(job_arguments(data, whole, **settings(**values))))
    arguments = job_arguments(data, interrupted, **settings(**values))
    process = start(arguments)
    wait_until((interrupted / "checkpoints" / "step-00000003.npz").exists, 240, process=process)
    process.send_signal(number)
    output = wait_for_exit(process, status=EXIT_INTERRUPTED if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert "was interrupted at step" in output
    output = wait_for_exit(start(arguments))
    assert "resuming from the checkpoint of step" in output
    assert evaluations(interrupted) == evaluations(whole)
    assert weights(interrupted) == weights(whole)


def test_a_finished_training_only_publishes(data, tmp_path):
    arguments = job_arguments(data, tmp_path, **settings(max_steps=3))
    wait_for_exit(start(arguments))
    before = weights(tmp_path)
    (tmp_path / "model" / "saved_model.pb").unlink()
    began = time.time()
    output = wait_for_exit(start(arguments))
    assert "train: reached max_steps=3" in output
    assert '"event": "published"' in output
    assert weights(tmp_path) == before
    assert (tmp_path / "model" / "saved_model.pb").stat().st_mtime > began - 1
    assert (tmp_path / "checkpoints" / "step-00000003.npz").stat().st_mtime < began


def test_a_training_resumes_with_more_steps_but_not_with_other_settings_or_data(
    data, coloured_dataset, tmp_path
):
    job_dir = tmp_path / "job"
    wait_for_exit(start(job_arguments(data, job_dir, **settings(max_steps=3))))
    other = coloured_dataset(tmp_path / "other", train=23, validation=6)
    rejected = [
        (job_arguments(data, job_dir, **settings(label_smoothing=0.2)), "label_smoothing was 0.1, is 0.2"),
        (job_arguments(other, job_dir, **settings()), "data_digest was"),
    ]
    for arguments, message in rejected:
        output = wait_for_exit(start(arguments), status=64)
        assert message in output
        assert "set another job_dir" in output
    output = wait_for_exit(start(job_arguments(data, job_dir, **settings(max_steps=5))))
    assert "resuming from the checkpoint of step 3 of 5; max_steps was 3, is 5" in output
    assert [evaluation["step"] for evaluation in evaluations(job_dir)] == [3, 5]


def test_a_diverging_training_keeps_its_best_model(data, tmp_path):
    arguments = job_arguments(
        data,
        tmp_path,
        **settings(max_steps=9, train_steps_per_eval=1),
        learning_rate_decay_type="stepwise",
        stepwise_learning_rate_steps=2,
        stepwise_learning_rate_levels=1e30,
    )
    output = wait_for_exit(start(arguments), status=76)
    assert "loss is NaN or infinite at step" in output
    assert "learning rate 1e+30" in output
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["best_step"] in (1, 2)
