"""The recipe head-then-fine-tune: the head on frozen features first, then the network, if there is time."""

import dataclasses
import json

import numpy as np
import pytest

from imgpipe.components.common.errors import InterruptedRunError
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train import head_first
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.head_first import head_arguments, mirroring_changes_labels
from imgpipe.components.train.models import build_classifier, rate_factors
from imgpipe.components.train.recipes import FROZEN, HEAD_FIRST, TrainingData
from imgpipe.components.train.train import train
from tests.components.train.job import evaluations, job_arguments, start, wait_for_exit


@pytest.fixture(scope="module")
def earlier(trained_digits):
    """A pretrained network: the location of a model."""
    return str(trained_digits[0])


# Left to the recipe.
UNSET = {"max_steps": -1, "initial_learning_rate": -1.0, "weight_decay": -1.0, "warmup_steps": -1}


def settings(earlier, **values):
    """Settings of a fine-tuning that changes nothing, unless ``values`` say otherwise."""
    still = {"initial_learning_rate": 1e-30, "warmup_steps": 0, "weight_decay": 0.0}
    return TrainingArguments(
        **{
            "recipe": HEAD_FIRST,
            "pretrained_checkpoint_path": earlier,
            "model_type": "resnet-18",
            "image_size": 32,
            "train_batch_size": 4,
            "max_steps": 1,
            "train_steps_per_eval": 1,
            **still,
            **values,
        }
    )


def weights_of(model):
    return (model / "variables" / "variables.data-00000-of-00001").read_bytes()


def decisions_of(model):
    return json.loads((model / "provenance.json").read_text()).get("decisions", [])


@pytest.mark.proof
def test_the_head_is_trained_first_and_is_the_model_if_fine_tuning_gains_nothing(
    coloured_dataset, earlier, tmp_path
):
    result = train(settings(earlier), coloured_dataset(tmp_path / "data"), tmp_path / "model")
    assert [evaluation.step for evaluation in result.evaluations] == [0, 1]
    assert result.best.step == 0
    assert result.best.top_1_accuracy == 1


def test_the_head_is_trained_like_a_frozen_backbone_whatever_the_fine_tuning_does(earlier):
    fine_tuning = settings(
        earlier,
        freeze="stage1",
        mixup=0.2,
        augmentation="randaugment",
        learning_rate_decay_type="stepwise",
        stepwise_learning_rate_steps="1",
        stepwise_learning_rate_levels="0.1",
        class_weights="balanced",
        seed=4,
    )
    data = TrainingData(500, 3)
    head = head_arguments(fine_tuning.resolved(data), data)
    plain = TrainingArguments(
        recipe=FROZEN,
        model_type="resnet-18",
        image_size=32,
        pretrained_checkpoint_path=earlier,
        class_weights="balanced",
        seed=4,
    )
    assert head == plain.resolved(data)


@pytest.mark.proof
def test_without_time_for_two_epochs_it_is_the_recipe_frozen_backbone_and_says_why(
    coloured_dataset, earlier, tmp_path, capfd
):
    dataset = coloured_dataset(tmp_path / "data")
    given = settings(earlier, max_minutes=1e-6, train_steps_per_eval=0, **UNSET)
    train(given, dataset, tmp_path / "model")
    [reason] = decisions_of(tmp_path / "model")
    assert reason.startswith("only the last layer is trained: a step of the network after stage1 takes ")
    assert (
        reason
        in json.loads(next(line for line in capfd.readouterr().out.splitlines() if reason in line))["message"]
    )
    used = json.loads((tmp_path / "model" / "provenance.json").read_text())["arguments"]
    assert (used["recipe"], used["freeze"], used["augmentation"]) == (FROZEN, "backbone", "none")


@pytest.mark.proof
def test_where_the_whole_network_takes_too_long_the_first_stages_stay_unchanged_also_when_it_resumes(
    coloured_dataset, earlier, tmp_path, monkeypatch
):
    dataset = coloured_dataset(tmp_path / "data")
    given = settings(earlier, max_minutes=60.0, max_steps=-1, job_dir=str(tmp_path / "job"))
    given = dataclasses.replace(given, early_stopping_patience=1)
    # Of the whole network, then of its later stages.
    speeds = iter((1000.0, 0.001))
    monkeypatch.setattr("imgpipe.components.train.start._seconds_per_step", lambda *_: next(speeds))
    first = train(given, dataset, tmp_path / "model")
    again = train(given, dataset, tmp_path / "again")
    assert [evaluation.step for evaluation in first.evaluations] == [0, 1]
    assert first.evaluations == again.evaluations
    for model in (tmp_path / "model", tmp_path / "again"):
        used = json.loads((model / "provenance.json").read_text())["arguments"]
        assert (used["recipe"], used["freeze"]) == (HEAD_FIRST, "stage1")
        [decision] = decisions_of(model)
        assert decision.startswith("the last layer is trained first, then the network after stage1: ")


@pytest.mark.proof
def test_the_default_time_budget_does_not_limit_a_frozen_backbone(
    coloured_dataset, earlier, tmp_path, monkeypatch
):
    dataset = coloured_dataset(tmp_path / "data")
    monkeypatch.setattr(head_first, "_MINUTES_ON_CPU", 1e-6)
    given = settings(earlier, train_steps_per_eval=0, **UNSET)
    result = train(given, dataset, tmp_path / "model")
    expected = train(dataclasses.replace(given, recipe=FROZEN), dataset, tmp_path / "frozen")
    assert result.evaluations == expected.evaluations
    assert weights_of(tmp_path / "model") == weights_of(tmp_path / "frozen")


@pytest.mark.proof
def test_an_interrupted_training_resumes_after_the_head_and_ends_as_if_it_had_not_been(
    coloured_dataset, earlier, tmp_path, monkeypatch
):
    dataset = coloured_dataset(tmp_path / "data")
    given = settings(earlier, initial_learning_rate=0.01, deterministic=True, job_dir=str(tmp_path / "job"))
    expected = train(dataclasses.replace(given, job_dir=""), dataset, tmp_path / "expected")

    class KilledError(Exception):
        pass

    def kill(_evaluations):
        # After the checkpoint of step 0, in the evaluation of step 1.
        raise KilledError

    with pytest.raises(KilledError):
        train(given, dataset, tmp_path / "killed", stop=kill)
    monkeypatch.setattr("imgpipe.components.train.start.train_head", None)
    resumed = train(given, dataset, tmp_path / "model")
    assert resumed.evaluations == expected.evaluations
    assert weights_of(tmp_path / "model") == weights_of(tmp_path / "expected")


@pytest.mark.proof
def test_a_decision_against_fine_tuning_and_mirroring_is_kept_when_it_resumes(
    coloured_dataset, earlier, tmp_path, monkeypatch
):
    dataset = coloured_dataset(tmp_path / "data")
    given = settings(earlier, job_dir=str(tmp_path / "job"), augmentation="auto")
    monkeypatch.setattr("imgpipe.components.train.start.mirroring_changes_labels", lambda *_: True)
    train(given, dataset, tmp_path / "model")
    monkeypatch.setattr("imgpipe.components.train.start.mirroring_changes_labels", lambda *_: False)
    train(dataclasses.replace(given, max_steps=2), dataset, tmp_path / "longer")
    for model in (tmp_path / "model", tmp_path / "longer"):
        assert [
            text for text in decisions_of(model) if text.startswith("images are cropped but not mirrored")
        ]


@pytest.mark.parametrize("matters", [False, True])
def test_images_are_not_mirrored_if_that_changes_their_labels(matters):
    class SideOrColour:
        """Sees which half is brighter, or whether the whole image is bright."""

        def logits(self, images, *, training):  # noqa: ARG002 - as the classifiers of train
            columns = tf.reduce_mean(tf.cast(images, tf.float32), [1, 3])
            left, right = tf.reduce_mean(columns[:, :4], 1), tf.reduce_mean(columns[:, 4:], 1)
            difference = left - right if matters else left + right - 255
            return tf.stack([-difference, difference], axis=1)

    draw = np.random.default_rng(3)
    images = draw.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    truth = np.argmax(SideOrColour().logits(images, training=False), axis=1)
    one_device = Accelerators(tf.distribute.get_strategy(), "CPU")
    batches = [(images[:40], truth[:40]), (images[40:], truth[40:])]
    assert mirroring_changes_labels(SideOrColour(), batches, 60, one_device) == matters
    targets = [(pixels, np.eye(2, dtype=np.float32)[classes]) for pixels, classes in batches]
    assert mirroring_changes_labels(SideOrColour(), targets, 60, one_device) == matters


def test_the_learning_rate_falls_with_the_depth_from_the_last_layer_to_the_first():
    classifier = build_classifier("resnet-18", num_classes=2, image_size=32, weights="none", seed=1)
    factors = {variable.path: factor for variable, factor in rate_factors(classifier, 0.5)}
    assert len(factors) == len(classifier.trained_variables) - len(classifier.head.trainable_variables)
    stages = [
        {factor for path, factor in factors.items() if path.startswith(f"stage{number}_")}
        for number in range(1, 5)
    ]
    assert stages == [{0.5**5}, {0.5**4}, {0.5**3}, {0.5**2}]
    assert min(factors.values()) == 0.5**6
    part = dataclasses.replace(classifier, freeze="stage2")
    assert {factor for _, factor in rate_factors(part, 0.5)} == {0.5**3, 0.5**2}
    assert rate_factors(classifier, 1) == []


@pytest.mark.proof
def test_two_devices_take_the_same_steps_as_one(coloured_dataset, earlier, tmp_path):
    dataset = coloured_dataset(tmp_path / "data")
    values = {
        "recipe": HEAD_FIRST,
        "pretrained_checkpoint_path": earlier,
        "weights": "auto",
        "layer_decay": 0.5,
    }
    for devices in (1, 2):
        arguments = job_arguments(dataset, tmp_path / f"job{devices}", augmentation="none", **values)
        wait_for_exit(start(arguments, devices=devices))
    one, two = (evaluations(tmp_path / f"job{devices}") for devices in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-2)


def test_a_training_that_is_stopped_while_it_trains_the_head_can_be_started_again(
    coloured_dataset, earlier, tmp_path, monkeypatch
):
    def stopped(*_arguments, **_options):
        raise InterruptedRunError("interrupted", remedy="set job_dir")

    monkeypatch.setattr(head_first, "run_loop", stopped)
    with pytest.raises(InterruptedRunError, match="while it trained the last layer"):
        train(settings(earlier), coloured_dataset(tmp_path / "data"), tmp_path / "model")
