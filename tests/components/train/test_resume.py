"""Interrupted trainings of the real command line, and what comes of them when they are started again."""

import json
import signal
import time

import pytest

from .job import evaluations, finished, start, wait_for, words_for

EXIT_INTERRUPTED = 75


@pytest.fixture(scope="module")
def data(coloured_dataset, tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data"), train=24, validation=6)


def settings(**values):
    return {"max_steps": 8, "train_steps_per_eval": 3, "deterministic": "true", **values}


def weights(job_dir):
    return (job_dir / "model" / "variables" / "variables.data-00000-of-00001").read_bytes()


# With dropout, augmentation and mixup: all that is drawn at random goes on where it was.
VARIED = {"model_type": "efficientnet-b0", "augmentation": "crop-flip", "mixup": 0.2, "ema": 0.9}


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ({}, signal.SIGTERM),
        ({}, signal.SIGKILL),
        pytest.param(VARIED, signal.SIGTERM, marks=pytest.mark.proof),
    ],
    ids=["SIGTERM", "SIGKILL", "everything random"],
)
def test_an_interrupted_training_ends_bit_for_bit_as_an_undisturbed_one(data, tmp_path, values, number):
    words = {name: words_for(data, tmp_path / name, **settings(**values)) for name in ("whole", "cut")}
    finished(start(words["whole"]))
    process = start(words["cut"])
    wait_for(tmp_path / "cut" / "checkpoints" / "step-00000003.npz", process)
    process.send_signal(number)
    output = finished(process, status=EXIT_INTERRUPTED if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert "was told to stop at step" in output
    output = finished(start(words["cut"]))
    assert "goes on from the checkpoint of step" in output
    assert evaluations(tmp_path / "cut") == evaluations(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_finished_training_only_evaluates_and_publishes(data, tmp_path):
    words = words_for(data, tmp_path, **settings(max_steps=3))
    finished(start(words))
    before = weights(tmp_path)
    (tmp_path / "model" / "saved_model.pb").unlink()
    began = time.time()
    output = finished(start(words))
    assert "nothing is left to train" in output
    assert '"event": "published"' in output
    assert weights(tmp_path) == before
    assert (tmp_path / "model" / "saved_model.pb").stat().st_mtime > began - 1
    assert (tmp_path / "checkpoints" / "step-00000003.npz").stat().st_mtime < began


def test_more_steps_go_on_and_other_arguments_or_data_are_refused(data, coloured_dataset, tmp_path):
    job_dir = tmp_path / "job"
    finished(start(words_for(data, job_dir, **settings(max_steps=3))))
    other = coloured_dataset(tmp_path / "other", train=23, validation=6)
    refused = [
        (words_for(data, job_dir, **settings(label_smoothing=0.2)), "label_smoothing was 0.1, is 0.2"),
        (words_for(other, job_dir, **settings()), "data_digest was"),
    ]
    for words, said in refused:
        output = finished(start(words), status=64)
        assert said in output
        assert "name another job_dir" in output
    output = finished(start(words_for(data, job_dir, **settings(max_steps=5))))
    assert "goes on from the checkpoint of step 3 of 5; max_steps was 3, is 5" in output
    assert [one["step"] for one in evaluations(job_dir)] == [3, 5]


def test_a_training_that_diverges_leaves_its_best_model(data, tmp_path):
    words = words_for(
        data,
        tmp_path,
        **settings(max_steps=9, train_steps_per_eval=1),
        learning_rate_decay_type="stepwise",
        stepwise_learning_rate_steps=2,
        stepwise_learning_rate_levels=1e30,
    )
    output = finished(start(words), status=76)
    assert "loss is not a number any more at step" in output
    assert "learning rate 1e+30" in output
    provenance = json.loads((tmp_path / "model" / "provenance.json").read_text())
    assert provenance["best_step"] in (1, 2)
