"""Training on multi-label data sets."""

from itertools import islice

import numpy as np
import pytest

from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest, shard_paths
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.temperature import (
    fit_temperature,
    logits_of,
    probabilities_of,
    temperature_sums,
)
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.evaluate.multi_label_metrics import compute_multi_label_metrics
from imgpipe.components.storage import parse_location
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.checkpoints import CheckpointFolder
from imgpipe.components.train.decoded_cache import CacheLocation
from imgpipe.components.train.input_pipeline import evaluation_batches, training_batches
from imgpipe.components.train.multi_label_evaluation import MultiLabelEvaluation
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.train import train
from imgpipe.components.train.training_step import Trainable, build_training_step

from .job import evaluations, job_arguments, start, wait_for_exit

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


def test_training_learns_every_label(trained, quadrants_dataset):
    _, result = trained
    assert isinstance(result.best, MultiLabelEvaluation)
    _, targets = validation_of(quadrants_dataset)
    chance = targets.mean(axis=0).mean()
    assert chance < 0.4
    assert result.best.mean_average_precision >= 0.9
    assert result.best.top_1_accuracy >= 0.9
    assert result.best.f1 >= 0.8


def test_the_model_has_independent_probabilities_and_the_metrics_of_the_loop(trained, quadrants_dataset):
    folder, result = trained
    records, targets = validation_of(quadrants_dataset)
    predictions = load_served_model(folder).predict([record.encoded for record in records])
    sums = predictions.probabilities.sum(axis=1)
    assert sums.max() > 1.5
    assert sums.min() < 0.5
    np.testing.assert_array_equal(predictions.classes, predictions.probabilities.argmax(axis=1))
    metrics = compute_multi_label_metrics(targets, predictions.probabilities)
    assert metrics.top_1_accuracy == pytest.approx(result.best.top_1_accuracy, abs=1e-9)
    # The loss of the loop is without the temperature, which minimizes it.
    logits = logits_of(predictions.probabilities, result.best.temperature, multi_label=True)
    raw = compute_multi_label_metrics(targets, probabilities_of(logits, 1.0, multi_label=True))
    assert raw.loss == pytest.approx(result.best.loss, rel=1e-4)
    assert metrics.loss < raw.loss
    fitted = fit_temperature(temperature_sums(logits, targets).sum(axis=0))
    assert fitted == pytest.approx(result.best.temperature, rel=1e-2)
    assert metrics.f1 == pytest.approx(result.best.f1, abs=1e-9)
    assert metrics.mean_average_precision == pytest.approx(result.best.mean_average_precision, abs=5e-3)


def test_the_provenance_contains_multi_label_and_all_metrics(trained):
    folder, result = trained
    provenance = read_provenance(folder)
    assert provenance["multi_label"] is True
    assert provenance["arguments"]["multi_label"] is True
    assert provenance["evaluations"] == [evaluation.figures() for evaluation in result.evaluations]


def test_multi_label_must_agree_with_the_data(quadrants_dataset, coloured_dataset, tmp_path):
    arguments = TrainingArguments(**{**SETTINGS, "multi_label": False})
    with pytest.raises(InvalidArgumentError, match=r"list of labels[\s\S]*set multi_label=true"):
        train(arguments, quadrants_dataset, tmp_path / "model")
    single = coloured_dataset(tmp_path / "single", train=40, validation=8)
    with pytest.raises(InvalidArgumentError, match=r"one label for each image[\s\S]*set multi_label=false"):
        train(TrainingArguments(**SETTINGS), single, tmp_path / "model")


def test_a_frozen_backbone_learns_from_its_features(trained, quadrants_dataset, tmp_path):
    folder, before = trained
    settings = {**SETTINGS, "freeze": "backbone", "pretrained_checkpoint_path": str(folder), "max_steps": 30}
    result = train(
        TrainingArguments(**{**settings, "class_weights": "balanced"}), quadrants_dataset, tmp_path / "model"
    )
    assert result.best.mean_average_precision >= before.best.mean_average_precision - 0.05


def test_a_stopped_training_with_mixing_and_augmentation_resumes_with_equal_results(
    quadrants_dataset, tmp_path
):
    settings = {**SETTINGS, "warmup_steps": 0, "train_steps_per_eval": 1, "mixup": 0.2, "cutmix": 1.0}
    settings |= {"augmentation": "crop-flip", "class_weights": "sqrt", "max_steps": 3, "deterministic": True}

    def trained_in(name, stop=None):
        arguments = TrainingArguments(**settings, job_dir=str(tmp_path / name))
        return train(arguments, quadrants_dataset, tmp_path / f"{name} model", stop=stop)

    whole = trained_in("whole")
    assert 0 < whole.best.train_loss < 5

    def fail_after_two(evaluations):
        if len(evaluations) == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trained_in("stopped", fail_after_two)
    resumed = trained_in("stopped")
    assert resumed.evaluations == whole.evaluations
    assert evaluations(tmp_path / "stopped") == [evaluation.figures() for evaluation in whole.evaluations]
    expected, checkpoint = (
        CheckpointFolder(parse_location(tmp_path / name / "checkpoints"), keep=1).latest()
        for name in ("whole", "stopped")
    )
    # Keras numbers the optimizers of a process: their names differ, but not their order.
    for name, expected_name in zip(sorted(checkpoint.arrays), sorted(expected.arrays), strict=True):
        np.testing.assert_array_equal(checkpoint.arrays[name], expected.arrays[expected_name], err_msg=name)


@pytest.mark.proof
def test_two_devices_agree_with_one(quadrants_dataset, tmp_path):
    values = {"multi_label": "true", "train_batch_size": 8, "eval_batch_size": 7, "max_steps": 2}
    first_evaluations = []
    for devices in (1, 2):
        job_dir = tmp_path / str(devices)
        wait_for_exit(start(job_arguments(quadrants_dataset, job_dir, **values), devices=devices))
        first_evaluations.append(evaluations(job_dir)[0])
    one, two = first_evaluations
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert two["mean_average_precision"] == pytest.approx(one["mean_average_precision"], abs=0.05)


# ---------------------------------------------------------------- a single step


def test_the_loss_is_keras_mean_binary_cross_entropy_with_label_smoothing():
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


def test_positive_weights_apply_to_positive_labels():
    inputs = np.eye(2, dtype=np.float32)
    targets = np.array([[1, 0], [0, 0]], np.float32)
    kernel = keras.Variable(np.zeros((2, 2), np.float32))
    arguments = TrainingArguments(
        train_batch_size=2, label_smoothing=0, multi_label=True, weight_decay=0, class_weights="balanced"
    )
    weights = np.array([3.0, 1.0], np.float32)
    loss = _loss_of_step(kernel, inputs, targets, arguments, weights)
    # All probabilities are 1/2, and the positive one of four labels has weight 3.
    assert loss == pytest.approx(np.log(2) * (3 + 1 + 1 + 1) / 4, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 19.0, 99.0])
def test_a_positive_weight_does_not_raise_the_probability_in_images_without_the_label(weight):
    # In images without the label, the optimum is the smoothed target, independent of the weight.
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


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_images_keep_their_labels_with_every_cache(quadrants_dataset, augmentation):
    manifest = read_manifest(quadrants_dataset)
    split = manifest.splits[TRAIN]
    settings = {
        "shard_examples": [shard.examples for shard in split.shards],
        "image_size": 16,
        "multi_label_classes": 4,
    }
    paths = shard_paths(quadrants_dataset, split)
    batches_by_location = [
        training_batches(paths, **settings, batch_size=80, seed=0, augmentation=augmentation, cache=location)
        for location in CacheLocation
    ]
    # Two epochs: the second one uses the cache.
    for batches in zip(*(islice(iter(batches), 8) for batches in batches_by_location), strict=True):
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
