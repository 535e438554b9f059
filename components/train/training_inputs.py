"""What the loop trains on: images, or the features that a frozen backbone makes of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest, shard_paths
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import Progress
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.augmentation import kept_size
from imgpipe.components.train.class_weights import class_weights, positive_weights
from imgpipe.components.train.decoded_cache import kept_decoded
from imgpipe.components.train.feature_store import shared_features
from imgpipe.components.train.input_pipeline import FeatureBatches, evaluation_batches, training_batches
from imgpipe.components.train.located_batches import LocatedBatches
from imgpipe.components.train.mixing import mix
from imgpipe.components.train.models import Classifier, decayed_kernels, set_batch_normalization_momentum
from imgpipe.components.train.training_step import Trainable

# A frozen backbone's features are computed once and kept when they take no more memory than this.
_FEATURE_BYTES = 2**30
# Validation features that go through the head at a time.
_FEATURE_ROWS = 1024


@dataclass(frozen=True)
class TrainingInputs:
    """What is trained, and on what.

    Attributes:
        trainable: The function and its variables.
        training_batches: ``training_batches(k)`` gives batches for ever, from that of step k + 1 on.
        evaluation_batches: Can be gone through again.
    """

    trainable: Trainable
    training_batches: Callable[[int], Iterable[tuple[Any, Any]]]
    evaluation_batches: Iterable[tuple[Any, Any]]


def training_inputs(
    classifier: Classifier,
    arguments: TrainingArguments,
    manifest: Manifest,
    folder: Path,
    accelerators: Accelerators,
    features_folder: Path | None = None,
) -> TrainingInputs:
    """Returns this worker's inputs: features where the backbone is frozen and every epoch sees the same ones.

    Args:
        classifier: To be trained.
        arguments: How.
        manifest: Of the data set.
        folder: Where its shards lie.
        accelerators: Which worker this is.
        features_folder: Where trainings on this machine share such features; None if there are no others.

    Raises:
        InvalidDataError: if an image cannot be decoded, or there are more or fewer than the manifest says.
    """
    images = manifest.splits[TRAIN].examples + _validation_images(arguments, manifest)
    # Labels are as wide as what they are kept beside: float32 [images, N] in a multi-label data set.
    width = classifier.backbone.output_shape[-1] + (manifest.num_classes if manifest.multi_label else 1)
    fits = 4 * width * images <= _FEATURE_BYTES
    varied = arguments.augmentation != "none" or arguments.mixup or arguments.cutmix
    if arguments.freeze == "backbone" and fits and not varied:
        return _feature_inputs(classifier, arguments, manifest, folder, accelerators, features_folder)
    return _image_inputs(classifier, arguments, manifest, folder, accelerators)


def _image_inputs(
    classifier: Classifier,
    arguments: TrainingArguments,
    manifest: Manifest,
    folder: Path,
    accelerators: Accelerators,
) -> TrainingInputs:
    image_size = arguments.resolved_image_size()
    set_batch_normalization_momentum(classifier, arguments.max_steps)
    mixed = partial(mix, mixup=arguments.mixup, cutmix=arguments.cutmix, seed=arguments.seed)
    trainable = Trainable(
        classifier.logits,
        tf.TensorSpec([None, image_size, image_size, 3], tf.uint8),
        classifier.trained_variables,
        decayed_kernels(classifier),
        classifier.variables,
        manifest.num_classes,
        _class_weights(arguments, manifest),
        (lambda images, targets, step: mixed(images, targets, step=step))
        if arguments.mixup or arguments.cutmix
        else None,
        manifest.multi_label,
    )
    training = manifest.splits[TRAIN]
    keep_training, keep_validation = kept_decoded(
        training_images=training.examples,
        training_size=kept_size(arguments.augmentation, image_size),
        validation_images=_validation_images(arguments, manifest),
        validation_size=image_size,
        seen=arguments.max_steps * arguments.train_batch_size,
        disk=arguments.augmentation == "none" or not arguments.deterministic,
    )

    def batches_from(first_step: int) -> LocatedBatches:
        batches = training_batches(
            shard_paths(folder, training),
            shard_examples=[shard.examples for shard in training.shards],
            image_size=image_size,
            batch_size=arguments.train_batch_size,
            seed=arguments.seed,
            keep_decoded=keep_training,
            augmentation=arguments.augmentation,
            first_step=first_step,
            part=accelerators.part,
            multi_label_classes=_multi_label_classes(manifest),
        )
        return LocatedBatches(batches, folder, training, multi_label=manifest.multi_label)

    validation = _validation_batches(
        arguments, manifest, folder, keep_decoded=keep_validation, part=accelerators.part
    )
    return TrainingInputs(trainable, batches_from, validation)


def _feature_inputs(
    classifier: Classifier,
    arguments: TrainingArguments,
    manifest: Manifest,
    folder: Path,
    accelerators: Accelerators,
    features_folder: Path | None,
) -> TrainingInputs:
    """Runs the frozen backbone once over the data; each worker does so over all of them."""
    validation_images = _validation_images(arguments, manifest)
    width = classifier.backbone.output_shape[-1]

    def compute() -> Sequence[NDArray[Any]]:
        return _computed_features(classifier, arguments, manifest, folder)

    if features_folder is None:
        arrays = compute()
    else:
        sampled = {"images": arguments.num_eval_images, "seed": arguments.seed}
        circumstances = {
            "data": manifest.digest(),
            "model_type": arguments.model_type,
            "image_size": arguments.resolved_image_size(),
            "batch_size": arguments.resolved_eval_batch_size(),
            "validation": sampled if arguments.num_eval_images else {},
        }
        arrays = shared_features(features_folder, circumstances, classifier.backbone.variables, compute)
    features, classes, validation_features, validation_classes = arrays
    trainable = Trainable(
        classifier.head,
        tf.TensorSpec([None, width], tf.float32),
        classifier.trained_variables,
        decayed_kernels(classifier),
        classifier.head.variables,
        manifest.num_classes,
        _class_weights(arguments, manifest),
        multi_label=manifest.multi_label,
    )
    worker, workers = accelerators.part
    own = slice(validation_images * worker // workers, validation_images * (worker + 1) // workers)
    pieces = [
        slice(begin, min(begin + _FEATURE_ROWS, own.stop))
        for begin in range(own.start, own.stop, _FEATURE_ROWS)
    ]

    def batches_from(first_step: int) -> FeatureBatches:
        return FeatureBatches(
            features,
            classes,
            batch_size=arguments.train_batch_size,
            seed=arguments.seed,
            first_step=first_step,
            part=accelerators.part,
        )

    validation = [(validation_features[piece], validation_classes[piece]) for piece in pieces]
    return TrainingInputs(trainable, batches_from, validation)


def _computed_features(
    classifier: Classifier, arguments: TrainingArguments, manifest: Manifest, folder: Path
) -> Sequence[NDArray[Any]]:
    """Returns features and classes of the training images, then of the validation images."""
    training, validation_images = manifest.splits[TRAIN], _validation_images(arguments, manifest)
    width = classifier.backbone.output_shape[-1]
    # In the order of the shards: shuffling is done on the features.
    images = evaluation_batches(
        shard_paths(folder, training),
        shard_examples=[shard.examples for shard in training.shards],
        image_size=arguments.resolved_image_size(),
        batch_size=arguments.resolved_eval_batch_size(),
        multi_label_classes=_multi_label_classes(manifest),
    )
    progress = Progress("train", training.examples + validation_images, "images through the frozen backbone")
    compute = _feature_function(classifier, arguments.resolved_image_size())
    found = _features(
        compute,
        LocatedBatches(images, folder, training, multi_label=manifest.multi_label),
        (training.examples, width),
        progress,
        done=0,
        multi_label_classes=_multi_label_classes(manifest),
    )
    found_validation = _features(
        compute,
        _validation_batches(arguments, manifest, folder),
        (validation_images, width),
        progress,
        done=training.examples,
        multi_label_classes=_multi_label_classes(manifest),
    )
    return [*found, *found_validation]


def _feature_function(classifier: Classifier, image_size: int) -> Any:
    @tf.function(input_signature=(tf.TensorSpec([None, image_size, image_size, 3], tf.uint8),))
    def features(images: Any) -> Any:
        return classifier.features(images, training=False)

    return features


def _features(
    compute: Callable[[Any], Any],
    batches: Iterable[tuple[Any, Any]],
    shape: tuple[int, int],
    progress: Progress,
    *,
    done: int,
    multi_label_classes: int = 0,
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Fills one array of ``shape`` = (images, features) and one of their classes."""
    features: NDArray[np.float32] = np.empty(shape, np.float32)
    classes: NDArray[Any] = (
        np.empty((shape[0], multi_label_classes), np.float32)
        if multi_label_classes
        else np.empty(shape[0], np.int64)
    )
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
    arguments: TrainingArguments,
    manifest: Manifest,
    folder: Path,
    *,
    keep_decoded: bool = False,
    part: tuple[int, int] = (0, 1),
) -> LocatedBatches:
    validation = manifest.splits[VALIDATION]
    batches = evaluation_batches(
        shard_paths(folder, validation),
        shard_examples=[shard.examples for shard in validation.shards],
        image_size=arguments.resolved_image_size(),
        batch_size=arguments.resolved_eval_batch_size(),
        images=arguments.num_eval_images,
        seed=arguments.seed,
        keep_decoded=keep_decoded,
        part=part,
        multi_label_classes=_multi_label_classes(manifest),
    )
    return LocatedBatches(batches, folder, validation, multi_label=manifest.multi_label)


def _multi_label_classes(manifest: Manifest) -> int:
    return manifest.num_classes if manifest.multi_label else 0


def _class_weights(arguments: TrainingArguments, manifest: Manifest) -> NDArray[np.float32] | None:
    if arguments.class_weights == "none":
        return None
    training = manifest.splits[TRAIN]
    if manifest.multi_label:
        return positive_weights(arguments.class_weights, training.images_per_label, training.examples)
    return class_weights(arguments.class_weights, training.images_per_label)


def _validation_images(arguments: TrainingArguments, manifest: Manifest) -> int:
    return arguments.num_eval_images or manifest.splits[VALIDATION].examples
