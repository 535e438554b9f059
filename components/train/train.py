"""Trains a classifier on a data set and writes the SavedModel of its best evaluation."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.dataset import TRAIN, VALIDATION, Manifest, read_manifest, shard_paths
from components.common.errors import InvalidArgumentError, InvalidDataError
from components.common.log import Progress, log_event, log_result
from components.common.provenance import write_deployment_config, write_provenance
from components.common.quiet_tensorflow import keras, tf
from components.common.saved_model import write_saved_model
from components.common.storage import check_empty
from components.train.arguments import TrainingArguments
from components.train.input_pipeline import (
    FeatureBatches,
    evaluation_batches,
    kept_decoded,
    training_batches,
)
from components.train.located_batches import LocatedBatches, short_reason
from components.train.loop import LoopResult, Trainable, run_loop
from components.train.models import (
    Classifier,
    build_classifier,
    decayed_kernels,
    set_batch_normalization_momentum,
)
from components.train.schedules import build_optimizer

# A frozen backbone's features are computed once and kept when they take no more memory than this.
_FEATURE_BYTES = 2**30
# Validation features that go through the head at a time.
_FEATURE_ROWS = 1024


def train(arguments: TrainingArguments, dataset_folder: Path, model_folder: Path) -> LoopResult:
    """Trains and writes the model folder: SavedModel, labels, provenance, deployment configuration.

    Args:
        arguments: All settings.
        dataset_folder: Where the data set's ``manifest.json`` lies.
        model_folder: To be written; must not exist or be empty.

    Raises:
        InvalidArgumentError: if the arguments do not fit the data or the memory.
        InvalidDataError: if a split is empty, there is only one label, or an image cannot be decoded
            (which one is said).
        OutputError: if there is something in ``model_folder``.
        UnavailableError: if pretrained weights cannot be had.
        CheckFailedError: if the training diverges.
    """
    check_empty(model_folder)
    manifest = read_manifest(dataset_folder)
    _check_fit(arguments, manifest)
    image_size = arguments.resolved_image_size()
    classifier = build_classifier(
        arguments.model_type,
        num_classes=manifest.num_classes,
        image_size=image_size,
        weights=arguments.weights,
        seed=arguments.seed,
    )
    log_event(
        "model_built",
        f"train: {arguments.model_type} at {image_size} pixels, "
        f"{sum(int(np.prod(variable.shape)) for variable in classifier.variables):,} parameters, "
        f"on {', '.join(_devices())}",
        model_type=arguments.model_type,
    )
    features_bytes = 4 * classifier.backbone.output_shape[-1] * _examples(manifest, arguments)
    with _lack_of_memory_explained(arguments):
        if arguments.freeze == "backbone" and features_bytes <= _FEATURE_BYTES:
            result = _train_on_features(classifier, arguments, manifest, dataset_folder)
        else:
            result = _train_on_images(classifier, arguments, manifest, dataset_folder)
    log_result(
        "train",
        f"best top-1 accuracy {result.best.top_1_accuracy:.4f}, at step {result.best.step:,} "
        f"of {arguments.max_steps:,}",
        training_step=result.best.step,
        top_1_accuracy=result.best.top_1_accuracy,
    )
    write_saved_model(classifier, image_size, manifest.labels, model_folder)
    write_deployment_config(model_folder, global_step=result.best.step)
    write_provenance(
        model_folder,
        {
            "model_type": arguments.model_type,
            "image_size": image_size,
            "arguments": {
                **dataclasses.asdict(arguments),
                # What 0 stood for.
                "num_classes": manifest.num_classes,
                "image_size": image_size,
                "train_steps_per_eval": arguments.resolved_steps_per_eval(),
                "eval_batch_size": arguments.resolved_eval_batch_size(),
            },
            "devices": _devices(),
            "data_digest": manifest.digest(),
            "best_step": result.best.step,
            "evaluations": [dataclasses.asdict(evaluation) for evaluation in result.evaluations],
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        },
    )
    return result


def _devices() -> list[str]:
    """Returns the kinds of the devices that TensorFlow sees: a GPU that is not among them is not used."""
    return [device.device_type for device in tf.config.list_physical_devices()]


def _check_fit(arguments: TrainingArguments, manifest: Manifest) -> None:
    for name in (TRAIN, VALIDATION):
        if name not in manifest.splits or not manifest.splits[name].examples:
            raise InvalidDataError(
                f"the data set has no {name} images", remedy=f"give images for the {name} split"
            )
    if manifest.num_classes < 2:
        raise InvalidDataError(
            f"the data set has only one label ({', '.join(manifest.labels)}): every model answers it",
            remedy="give images of at least two labels",
        )
    if arguments.num_classes not in (0, manifest.num_classes):
        raise InvalidArgumentError(
            f"num_classes={arguments.num_classes}, but the data has {manifest.num_classes} labels: "
            f"{', '.join(manifest.labels[:10])}{', ...' if manifest.num_classes > 10 else ''}",
            remedy=f"give num_classes={manifest.num_classes}, or 0 to take it from the data",
        )
    training, validation = (manifest.splits[name].examples for name in (TRAIN, VALIDATION))
    if arguments.train_batch_size > training:
        raise InvalidArgumentError(
            f"train_batch_size={arguments.train_batch_size} is more than the {training} training images",
            remedy=f"give at most {training}",
        )
    if arguments.num_eval_images > validation:
        raise InvalidArgumentError(
            f"num_eval_images={arguments.num_eval_images} is more than the {validation} validation images",
            remedy=f"give at most {validation}, or 0 for all",
        )


def _train_on_images(
    classifier: Classifier, arguments: TrainingArguments, manifest: Manifest, folder: Path
) -> LoopResult:
    image_size = arguments.resolved_image_size()
    frozen = arguments.freeze == "backbone"
    if frozen:
        trained, kernels = _head_variables(classifier)
        kept = classifier.head.variables
    else:
        set_batch_normalization_momentum(classifier, arguments.max_steps)
        trained = [*classifier.backbone.trainable_variables, *classifier.head.trainable_variables]
        kernels, kept = decayed_kernels(classifier), classifier.variables

    def logits(images: Any, *, training: bool) -> Any:
        return classifier.logits(images, training=training, frozen=frozen)

    trainable = Trainable(
        logits,
        tf.TensorSpec([None, image_size, image_size, 3], tf.uint8),
        trained,
        kernels,
        kept,
        manifest.num_classes,
    )
    training = manifest.splits[TRAIN]
    keep_training, keep_validation = kept_decoded(
        training_images=training.examples,
        validation_images=_validation_images(manifest, arguments),
        image_size=image_size,
    )
    batches = training_batches(
        shard_paths(folder, training),
        examples=training.examples,
        image_size=image_size,
        batch_size=arguments.train_batch_size,
        seed=arguments.seed,
        keep_decoded=keep_training,
    )
    return run_loop(
        trainable,
        build_optimizer(arguments),
        arguments,
        LocatedBatches(batches, folder, training),
        _validation_batches(arguments, manifest, folder, keep_decoded=keep_validation),
    )


def _train_on_features(
    classifier: Classifier, arguments: TrainingArguments, manifest: Manifest, folder: Path
) -> LoopResult:
    """Runs the frozen backbone once over the data, then trains the head on what it gave."""
    training, validation_images = manifest.splits[TRAIN], _validation_images(manifest, arguments)
    # In the order of the shards: shuffling is done on the features.
    images = evaluation_batches(
        shard_paths(folder, training),
        examples=training.examples,
        image_size=arguments.resolved_image_size(),
        batch_size=arguments.resolved_eval_batch_size(),
    )
    progress = Progress("train", _examples(manifest, arguments), "images through the frozen backbone")
    compute = _feature_function(classifier, arguments.resolved_image_size())
    width = classifier.backbone.output_shape[-1]
    features, classes = _features(
        compute, LocatedBatches(images, folder, training), (training.examples, width), progress, done=0
    )
    validation_features, validation_classes = _features(
        compute,
        _validation_batches(arguments, manifest, folder, keep_decoded=False),
        (validation_images, width),
        progress,
        done=len(classes),
    )
    trained, kernels = _head_variables(classifier)
    trainable = Trainable(
        classifier.head,
        tf.TensorSpec([None, width], tf.float32),
        trained,
        kernels,
        classifier.head.variables,
        manifest.num_classes,
    )
    pieces = [slice(start, start + _FEATURE_ROWS) for start in range(0, validation_images, _FEATURE_ROWS)]
    validation = [(validation_features[piece], validation_classes[piece]) for piece in pieces]
    batches = FeatureBatches(features, classes, batch_size=arguments.train_batch_size, seed=arguments.seed)
    return run_loop(trainable, build_optimizer(arguments), arguments, batches, validation)


def _feature_function(classifier: Classifier, image_size: int) -> Any:
    @tf.function(input_signature=(tf.TensorSpec([None, image_size, image_size, 3], tf.uint8),))
    def features(images: Any) -> Any:
        return classifier.backbone(tf.cast(images, tf.float32), training=False)

    return features


def _features(
    compute: Callable[[Any], Any],
    batches: Iterable[tuple[Any, Any]],
    shape: tuple[int, int],
    progress: Progress,
    *,
    done: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fills one array of ``shape`` = (images, features) and one of their classes."""
    features, classes = np.empty(shape, np.float32), np.empty(shape[0], np.int64)
    filled = 0
    for images, batch_classes in batches:
        end = filled + len(batch_classes)
        if end <= len(classes):
            features[filled:end] = compute(images).numpy()
            classes[filled:end] = batch_classes.numpy()
        filled = end
        progress.update(done + filled)
    if filled != len(classes):
        raise InvalidDataError(
            f"the shards hold {filled:,} images, the manifest says {len(classes):,}",
            remedy="run the convert step again: a file has changed since",
        )
    return features, classes


def _validation_batches(
    arguments: TrainingArguments, manifest: Manifest, folder: Path, *, keep_decoded: bool
) -> LocatedBatches:
    validation = manifest.splits[VALIDATION]
    batches = evaluation_batches(
        shard_paths(folder, validation),
        examples=validation.examples,
        image_size=arguments.resolved_image_size(),
        batch_size=arguments.resolved_eval_batch_size(),
        images=arguments.num_eval_images,
        seed=arguments.seed,
        keep_decoded=keep_decoded,
    )
    return LocatedBatches(batches, folder, validation)


@contextmanager
def _lack_of_memory_explained(arguments: TrainingArguments) -> Iterator[None]:
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        reason = short_reason(error)
        and_evaluation = ", eval_batch_size" if arguments.eval_batch_size else ""
        raise InvalidArgumentError(
            f"there is not enough memory for train_batch_size={arguments.train_batch_size} and "
            f"image_size={arguments.resolved_image_size()}{': ' if reason else ''}{reason}",
            remedy=f"lower train_batch_size{and_evaluation} or image_size, or choose a smaller model_type",
        ) from None


def _head_variables(classifier: Classifier) -> tuple[list[Any], list[Any]]:
    trained = classifier.head.trainable_variables
    return trained, [variable for variable in trained if variable.name.endswith("kernel")]


def _validation_images(manifest: Manifest, arguments: TrainingArguments) -> int:
    return arguments.num_eval_images or manifest.splits[VALIDATION].examples


def _examples(manifest: Manifest, arguments: TrainingArguments) -> int:
    return manifest.splits[TRAIN].examples + _validation_images(manifest, arguments)
