"""Training on images that have several labels, or none."""

import dataclasses
from itertools import islice

import numpy as np
import pytest

from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest, shard_paths
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.evaluate.multi_label_metrics import compute_multi_label_metrics
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.checkpoints import CheckpointFolder
from imgpipe.components.train.class_weights import positive_weights
from imgpipe.components.train.decoded_cache import CachePlace
from imgpipe.components.train.input_pipeline import evaluation_batches, training_batches
from imgpipe.components.train.multi_label_evaluation import MultiLabelEvaluation
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.train import train
from imgpipe.components.train.training_step import Trainable, build_training_step

from .job import evaluations, finished, start, words_for

SETTINGS = {
    "max_steps": 60,
    "train_batch_size": 32,
    "model_type": "resnet-18",
    "image_size": 32,
    "weights": "none",
    "initial_learning_rate": 0.05,
    "warmup_steps": 10,
    "train_steps_per_eval": 30,
    "multi_label": True,
    "seed": 1,
}


@pytest.fixture(scope="module")
def trained(quadrants_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    return folder, train(TrainingArguments(**SETTINGS), quadrants_dataset, folder)


def validation_of(folder):
    manifest = read_manifest(folder)
    records = list(read_split(folder, manifest.splits[VALIDATION], multi_label=True))
    targets = np.zeros((len(records), manifest.num_classes), bool)
    for number, record in enumerate(records):
        targets[number, [label - 1 for label in record.labels]] = True
    return records, targets


def test_it_learns_every_label(trained, quadrants_dataset):
    _, result = trained
    assert isinstance(result.best, MultiLabelEvaluation)
    _, targets = validation_of(quadrants_dataset)
    chance = targets.mean(axis=0).mean()
    assert chance < 0.4
    assert result.best.mean_average_precision >= 0.9
    assert result.best.top_1_accuracy >= 0.9
    assert result.best.f1 >= 0.8


def test_the_model_gives_each_label_a_probability_of_its_own_and_what_the_loop_found(
    trained, quadrants_dataset
):
    folder, result = trained
    records, targets = validation_of(quadrants_dataset)
    answer = load_served_model(folder).predict([record.encoded for record in records])
    sums = answer.probabilities.sum(axis=1)
    assert sums.max() > 1.5
    assert sums.min() < 0.5
    np.testing.assert_array_equal(answer.classes, answer.probabilities.argmax(axis=1))
    metrics = compute_multi_label_metrics(targets, answer.probabilities)
    assert metrics.top_1_accuracy == pytest.approx(result.best.top_1_accuracy, abs=1e-9)
    assert metrics.loss == pytest.approx(result.best.loss, rel=1e-4)
    assert metrics.f1 == pytest.approx(result.best.f1, abs=1e-9)
    assert metrics.mean_average_precision == pytest.approx(result.best.mean_average_precision, abs=5e-3)


def test_the_provenance_says_so(trained):
    folder, result = trained
    provenance = read_provenance(folder)
    assert provenance["multi_label"] is True
    assert provenance["arguments"]["multi_label"] is True
    assert provenance["evaluations"] == [dataclasses.asdict(one) for one in result.evaluations]


def test_an_argument_that_contradicts_the_data_is_refused_either_way(
    quadrants_dataset, coloured_dataset, tmp_path
):
    arguments = TrainingArguments(**{**SETTINGS, "multi_label": False})
    with pytest.raises(InvalidArgumentError, match=r"list of labels[\s\S]*give multi_label=true"):
        train(arguments, quadrants_dataset, tmp_path / "model")
    single = coloured_dataset(tmp_path / "single", train=40, validation=8)
    with pytest.raises(InvalidArgumentError, match=r"one label for each image[\s\S]*give multi_label=false"):
        train(TrainingArguments(**SETTINGS), single, tmp_path / "model")


def test_a_frozen_backbone_learns_from_its_features(trained, quadrants_dataset, tmp_path):
    folder, before = trained
    settings = {**SETTINGS, "freeze": "backbone", "pretrained_checkpoint_path": str(folder), "max_steps": 30}
    result = train(
        TrainingArguments(**{**settings, "class_weights": "balanced"}), quadrants_dataset, tmp_path / "model"
    )
    assert result.best.mean_average_precision >= before.best.mean_average_precision - 0.05


def test_mixing_and_augmentation_train_on_lists_of_labels_and_an_interrupted_job_ends_as_any(
    quadrants_dataset, tmp_path
):
    settings = {**SETTINGS, "warmup_steps": 0, "train_steps_per_eval": 1, "mixup": 0.2, "cutmix": 1.0}
    settings |= {"augmentation": "crop-flip", "class_weights": "sqrt", "max_steps": 3, "deterministic": True}

    def trained_in(name, stop=None):
        arguments = TrainingArguments(**settings, job_dir=str(tmp_path / name))
        return train(arguments, quadrants_dataset, tmp_path / f"{name} model", stop=stop)

    whole = trained_in("whole")
    assert 0 < whole.best.train_loss < 5

    class ToldError(Exception):
        pass

    def after_one(evaluations):
        if len(evaluations) == 2:
            raise ToldError

    with pytest.raises(ToldError):
        trained_in("stopped", after_one)
    again = trained_in("stopped")
    assert again.evaluations == whole.evaluations
    assert evaluations(tmp_path / "stopped") == [dataclasses.asdict(one) for one in whole.evaluations]
    last = [
        CheckpointFolder(str(tmp_path / name / "checkpoints"), keep=1).latest()
        for name in ("whole", "stopped")
    ]
    # Keras numbers the optimizers of a process, so that their names differ, though not their order.
    names = [sorted(checkpoint.arrays) for checkpoint in last]
    assert len(names[0]) == len(names[1])
    for one, other in zip(*names, strict=True):
        np.testing.assert_array_equal(last[1].arrays[other], last[0].arrays[one], err_msg=one)


@pytest.mark.proof
def test_two_devices_come_to_what_one_does(quadrants_dataset, tmp_path):
    words = {"multi_label": "true", "train_batch_size": 8, "eval_batch_size": 7}
    ended = {}
    for devices in (1, 2):
        job_dir = tmp_path / str(devices)
        finished(start(words_for(quadrants_dataset, job_dir, max_steps=2, **words), devices=devices))
        ended[devices] = evaluations(job_dir)
    assert set(ended[1][0]) == {
        *("step", "top_1_accuracy", "top_5_accuracy", "loss", "train_loss"),
        *("mean_average_precision", "f1"),
    }
    for one, other in zip(ended[1][:1], ended[2][:1], strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["mean_average_precision"] == pytest.approx(one["mean_average_precision"], abs=0.05)


# ---------------------------------------------------------------- one step, one batch


def test_the_loss_is_the_mean_binary_cross_entropy_of_keras_smoothed_towards_a_half():
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(6, 3)).astype(np.float32)
    targets = draw.integers(0, 2, (6, 4)).astype(np.float32)
    kernel = keras.Variable(draw.normal(size=(3, 4)).astype(np.float32))
    logits = inputs @ kernel.numpy()
    for smoothing in (0.0, 0.1):
        arguments = TrainingArguments(
            train_batch_size=6, label_smoothing=smoothing, multi_label=True, weight_decay=0
        )
        expected = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
        assert _loss_of_step(kernel, inputs, targets, arguments) == pytest.approx(
            float(expected(targets, logits)), rel=1e-5
        )


def test_positive_weights_count_what_an_image_has():
    inputs = np.eye(2, dtype=np.float32)
    targets = np.array([[1, 0], [0, 0]], np.float32)
    kernel = keras.Variable(np.zeros((2, 2), np.float32))
    arguments = TrainingArguments(
        train_batch_size=2, label_smoothing=0, multi_label=True, weight_decay=0, class_weights="balanced"
    )
    weights = np.array([3.0, 1.0], np.float32)
    loss = _loss_of_step(kernel, inputs, targets, arguments, weights)
    # Every probability is a half: four decisions, of which one counts three times.
    assert loss == pytest.approx(np.log(2) * (3 + 1 + 1 + 1) / 4, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 19.0, 99.0])
def test_a_weight_does_not_pull_a_rare_label_up_where_it_is_not(weight):
    # Without the label, the best probability is what smoothing asks for, whatever the label's weight.
    smoothing = 0.1
    best = np.log((smoothing / 2) / (1 - smoothing / 2))
    arguments = TrainingArguments(
        train_batch_size=1, label_smoothing=smoothing, multi_label=True, weight_decay=0, warmup_steps=0
    )
    losses = [
        _loss_of_step(
            keras.Variable(np.full((1, 1), logit, np.float32)),
            np.ones((1, 1), np.float32),
            np.zeros((1, 1), np.float32),
            arguments,
            np.array([weight], np.float32),
        )
        for logit in (best - 0.2, best, best + 0.2)
    ]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


def _loss_of_step(kernel, inputs, targets, arguments, weights=None):
    before = kernel.numpy()
    trainable = Trainable(
        lambda values, **_: values @ kernel,
        tf.TensorSpec([None, inputs.shape[1]], tf.float32),
        [kernel],
        [kernel],
        [kernel],
        targets.shape[1],
        weights,
        multi_label=True,
    )
    optimizer = build_optimizer(arguments, "float32")
    optimizer.build([kernel])
    one_device = Accelerators(tf.distribute.get_strategy(), "CPU")
    loss = build_training_step(trainable, optimizer, arguments, one_device)(inputs, targets)
    kernel.assign(before)
    return float(loss.numpy())


def test_positive_weights_are_the_odds_against_a_label_or_their_root():
    np.testing.assert_allclose(positive_weights("balanced", [25, 50, 0, 100], 100), [3, 1, 1, 1])
    np.testing.assert_allclose(positive_weights("sqrt", [20, 80], 100), [2, 0.5])
    np.testing.assert_allclose(positive_weights("none", [20, 80], 100), [1, 1])


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_images_keep_their_labels_wherever_they_are_kept(quadrants_dataset, augmentation):
    manifest = read_manifest(quadrants_dataset)
    split = manifest.splits[TRAIN]
    settings = {
        "shard_examples": [shard.examples for shard in split.shards],
        "image_size": 16,
        "multi_label_classes": 4,
    }
    paths = shard_paths(quadrants_dataset, split)
    ways = [
        training_batches(
            paths,
            **settings,
            batch_size=80,
            seed=0,
            augmentation=augmentation,
            keep_decoded=place,
        )
        for place in CachePlace
    ]
    # Two epochs: in the second the kept ones are used.
    for batches in zip(*(islice(iter(way), 8) for way in ways), strict=True):
        first = batches[0][1].numpy()
        assert (first.dtype, first.shape) == (np.float32, (80, 4))
        for _, targets in batches[1:]:
            np.testing.assert_array_equal(targets.numpy(), first)
    records = read_split(quadrants_dataset, split, multi_label=True)
    in_order = np.concatenate(
        [targets.numpy() for _, targets in evaluation_batches(paths, **settings, batch_size=64)]
    )
    for record, row in zip(records, in_order, strict=True):
        assert [label - 1 for label in record.labels] == np.flatnonzero(row).tolist()
