"""Selects the network: compares those whose ImageNet weights are here on a sample of the training images.

The networks are not trained. Their features of the sample are computed once, and a linear classifier of the
features, a ridge regression, predicts each image from all the others (leave one out).
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import TRAIN, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.input_pipeline import evaluation_batches
from imgpipe.components.train.job_dir import CHECKPOINTS_FOLDER, RACE_FILE
from imgpipe.components.train.models import Classifier, build_classifier
from imgpipe.components.train.recipes import AUTO, recipe_values
from imgpipe.components.train.training_inputs import LocalData, located_batches
from imgpipe.components.train.weight_files import networks_to_compare

# With 600 images, the standard error of an accuracy of 0.9 is 0.012.
_SAMPLE = 600
_BATCH_SIZE = 16
_TIMED_RUNS = 10
# The race takes at most this part of max_minutes, or this time without it.
_FRACTION_OF_BUDGET, _LONGEST_SECONDS = 0.2, 300.0
# Strengths of the regression, as parts of the features' variance. The best one is selected.
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Probe:
    """The result of a network.

    Attributes:
        model_type: A name of ``MODEL_TYPES``.
        milliseconds: The shortest time for one image on this processor, in float32 and without decoding; None
            if it was not measured.
        accuracy: Top-1 accuracy of the linear classifier; None if the network was left out.
        reason: Why it was left out; empty if it was not.
    """

    model_type: str
    milliseconds: float | None
    accuracy: float | None
    reason: str = ""


@dataclass(frozen=True)
class Race:
    """The selected network and the results of all of them."""

    model_type: str
    probes: tuple[Probe, ...]


def find_or_run_race(arguments: TrainingArguments, dataset_folder: Path, *, workers: int) -> Race | None:
    """Returns the race that selects the network of a training run; None if nothing is to be selected.

    A resumed training run has the result of its first start, in its job_dir. Several workers could disagree,
    so they train the recipe's network.

    Raises:
        InvalidArgumentError: if every network takes longer than max_latency_ms.
    """
    if arguments.model_type != AUTO or workers > 1:
        return None
    file = parse_location(arguments.job_dir) / RACE_FILE if arguments.job_dir else None
    if file is not None:
        try:
            values = json.loads(file.read())
            return Race(values["model_type"], tuple(Probe(**probe) for probe in values["probes"]))
        except (FileNotFoundError, MissingInputError):
            if (file.parent / CHECKPOINTS_FOLDER).contents():
                # The training began when there was nothing to select.
                return None
    networks = networks_to_compare(arguments)
    if not networks:
        return None
    race = _run(networks, arguments, dataset_folder)
    if file is not None:
        file.write(json.dumps(dataclasses.asdict(race)).encode())
    return race


def _run(networks: Sequence[str], arguments: TrainingArguments, dataset_folder: Path) -> Race:
    budget = 60 * arguments.max_minutes * _FRACTION_OF_BUDGET or _LONGEST_SECONDS
    end = time.monotonic() + budget
    with local_dataset(dataset_folder, TRAIN) as folder:
        data = LocalData(read_manifest(folder), folder)
        probes = tuple(_probe(network, arguments, data, end) for network in networks)
    default = recipe_values(vars(arguments))["model_type"]
    race = Race(select(probes, arguments.max_latency_ms, default), probes)
    log_event("model_race", describe(race, arguments.max_latency_ms), **dataclasses.asdict(race))
    return race


def _probe(model_type: str, arguments: TrainingArguments, data: LocalData, end: float) -> Probe:
    if time.monotonic() > end:
        return Probe(model_type, None, None, "no time was left")
    settings = dataclasses.replace(arguments, model_type=model_type)
    size = settings.resolved_image_size()
    classifier = build_classifier(
        model_type, num_classes=2, image_size=size, weights="imagenet", seed=arguments.seed
    )
    milliseconds = measure_latency(classifier, size)
    images = min(_SAMPLE, data.size.images)
    if arguments.max_latency_ms and milliseconds > arguments.max_latency_ms:
        return Probe(model_type, milliseconds, None, f"more than {arguments.max_latency_ms:g} ms")
    # In batches an image takes no longer than alone.
    if time.monotonic() + images * milliseconds / 1000 > end:
        return Probe(model_type, milliseconds, None, f"{images} images take too long")
    features, targets = _features(classifier, settings, data, images)
    return Probe(model_type, milliseconds, linear_probe_accuracy(features, targets))


def measure_latency(classifier: Classifier, image_size: int) -> float:
    """Returns the time in milliseconds that the features of one image take: the shortest of some runs."""
    image = tf.zeros((1, image_size, image_size, 3), tf.uint8)
    run = tf.function(lambda images: classifier.features(images, training=False))
    # The first call includes tracing.
    run(image)
    times = []
    for _ in range(_TIMED_RUNS):
        before = time.perf_counter()
        run(image).numpy()
        times.append(time.perf_counter() - before)
    return 1000 * min(times)


def _features(
    classifier: Classifier, arguments: TrainingArguments, data: LocalData, images: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the features of a sample of the training images and their targets, a column for each class."""
    size, manifest = arguments.resolved_image_size(), data.manifest
    # The same sample for each network: it depends on the seed.
    batches = located_batches(
        evaluation_batches, arguments, data, TRAIN, batch_size=_BATCH_SIZE, images=images
    )
    run = tf.function(
        lambda batch: classifier.features(batch, training=False),
        input_signature=(tf.TensorSpec([None, size, size, 3], tf.uint8),),
    )
    features, targets = zip(*((run(batch).numpy(), labels.numpy()) for batch, labels in batches), strict=True)
    truth = np.concatenate(targets)
    if not manifest.multi_label:
        truth = np.eye(manifest.num_classes, dtype=np.float32)[truth]
    return np.concatenate(features), truth


def linear_probe_accuracy(features: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
    """Returns the accuracy with which a linear classifier predicts each image from all the others.

    It is a ridge regression of the targets, with the strength that has the smallest error.

    Args:
        features: [images, features].
        targets: [images, classes], 1 for the labels of an image, else 0. Images without a label do not count.
    """
    scaled = features.astype(np.float64) - features.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-9)
    variance = max(float(np.square(scaled).sum(axis=1).mean()), 1e-9)
    predictions = [left_out_predictions(scaled, targets, strength * variance) for strength in _STRENGTHS]
    best = min(predictions, key=lambda predicted: float(np.square(predicted - targets).mean()))
    correct = targets[np.arange(len(targets)), best.argmax(axis=1)] > 0
    return float(correct[targets.sum(axis=1) > 0].mean())


def left_out_predictions(
    features: NDArray[np.float64], targets: NDArray[np.float32], penalty: float
) -> NDArray[np.float64]:
    """Returns what a ridge regression, with an intercept, of all other images predicts for each image.

    In closed form: a prediction without the image follows from the one with it and the image's leverage.
    """
    centred = features - features.mean(axis=0)
    kernel, count = centred @ centred.T, len(features)
    # The first term is the intercept. Without it in the leverage, the mean would give an image's target away.
    hat = 1 / count + np.linalg.solve(kernel + penalty * np.eye(count), kernel)
    return targets - (targets - hat @ targets) / np.maximum(1 - hat.diagonal(), 1e-9)[:, None]


def select(probes: Sequence[Probe], max_latency_ms: float, default: str) -> str:
    """Returns the name of the most accurate network, of equal ones the fastest.

    Without time to compare any, it is the default, if that is among the networks, or the first one.

    Raises:
        InvalidArgumentError: if every network takes longer than ``max_latency_ms``.
    """
    fitting = [
        probe
        for probe in probes
        if not max_latency_ms or probe.milliseconds is None or probe.milliseconds <= max_latency_ms
    ]
    if not fitting:
        times = ", ".join(f"{probe.model_type} {probe.milliseconds:.3g}" for probe in probes)
        raise InvalidArgumentError(
            f"max_latency_ms={max_latency_ms:g}, but the networks with weights on this machine take longer: "
            f"{times} ms per image",
            remedy="raise max_latency_ms, lower image_size, or add the weights of a smaller network",
        )
    compared = [probe for probe in fitting if probe.accuracy is not None]
    if compared:
        best = max(compared, key=lambda probe: (probe.accuracy or 0.0, -(probe.milliseconds or 0.0)))
        return best.model_type
    names = [probe.model_type for probe in fitting]
    return default if default in names else names[0]


def describe(race: Race, max_latency_ms: float) -> str:
    """Returns the table for the log."""
    limit = f" within {max_latency_ms:g} ms" if max_latency_ms else ""
    title = f"train: model_type {race.model_type}, the most accurate of {len(race.probes)} networks{limit}"
    return "\n".join([title, *(f"  {describe_probe(probe)}" for probe in race.probes)])


def describe_probe(probe: Probe) -> str:
    """Returns a line about a network."""
    time_taken = "" if probe.milliseconds is None else f"{probe.milliseconds:.3g} ms per image, "
    result = probe.reason if probe.accuracy is None else f"accuracy {probe.accuracy:.4f}"
    return f"{probe.model_type}: {time_taken}{result}"
