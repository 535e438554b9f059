"""Builds the loop's inputs: images, or the features of a frozen backbone."""

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
from imgpipe.components.common.plural import plural
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.augmentation import cached_size
from imgpipe.components.train.class_weights import class_weights, positive_weights
from imgpipe.components.train.decoded_cache import choose_cache
from imgpipe.components.train.feature_store import shared_features
from imgpipe.components.train.input_pipeline import evaluation_batches, feature_batches, training_batches
from imgpipe.components.train.located_batches import LocatedBatches
from imgpipe.components.train.loop import TrainingInputs
from imgpipe.components.train.mixing import mix
from imgpipe.components.train.models import Classifier, decayed_kernels, set_batch_normalization_momentum
from imgpipe.components.train.recipes import TrainingData
from imgpipe.components.train.training_step import Trainable

# A frozen backbone's features are computed once and kept if they take at most this much memory.
_MAX_FEATURE_BYTES = 2**30
# Batch size of the head when it evaluates features.
_FEATURE_BATCH_SIZE = 1024


@dataclass(frozen=True)
class LocalData:
    """The data set on this machine.

    Attributes:
        manifest: The data set.
        folder: The folder of its shards.
        features_folder: Where training runs on this machine share the features of frozen backbones; None for
            a single run.
    """

    manifest: Manifest
    folder: Path
    features_folder: Path | None = None

    @property
    def size(self) -> TrainingData:
        """What a recipe's schedule depends on."""
        return TrainingData(self.manifest.splits[TRAIN].examples, self.manifest.num_classes)

    def validation_images(self, arguments: TrainingArguments) -> int:
        """Returns the number of images of an evaluation during the training."""
        return arguments.num_eval_images or self.manifest.splits[VALIDATION].examples


def training_inputs(
    classifier: Classifier, arguments: TrainingArguments, data: LocalData, accelerators: Accelerators
) -> TrainingInputs:
    """Returns this worker's inputs: features if the backbone is frozen and images are not augmented.

    Raises:
        InvalidDataError: if an image cannot be decoded, or the number of images differs from the manifest.
    """
    manifest = data.manifest
    images = data.size.images + data.validation_images(arguments)
    # Features and targets are float32; a multi-label data set has N targets per image.
    width = classifier.backbone.output_shape[-1] + (manifest.num_classes if manifest.multi_label else 1)
    fits = 4 * width * images <= _MAX_FEATURE_BYTES
    augmented = arguments.augmentation != "none" or arguments.mixup or arguments.cutmix
    if arguments.freeze == "backbone" and fits and not augmented:
        return _feature_inputs(classifier, arguments, data, accelerators)
    return _image_inputs(classifier, arguments, data, accelerators)


def image_trainable(classifier: Classifier, arguments: TrainingArguments, manifest: Manifest) -> Trainable:
    """Returns the function of images to train."""
    image_size = arguments.resolved_image_size()
    blend = partial(mix, mixup=arguments.mixup, cutmix=arguments.cutmix, seed=arguments.seed)
    return Trainable(
        classifier.logits,
        tf.TensorSpec([None, image_size, image_size, 3], tf.uint8),
        classifier.trained_variables,
        decayed_kernels(classifier),
        classifier.variables,
        manifest.num_classes,
        _class_weights(arguments, manifest),
        blend if arguments.mixup or arguments.cutmix else None,
        manifest.multi_label,
    )


def _image_inputs(
    classifier: Classifier, arguments: TrainingArguments, data: LocalData, accelerators: Accelerators
) -> TrainingInputs:
    image_size = arguments.resolved_image_size()
    set_batch_normalization_momentum(classifier, arguments.max_steps)
    training_cache, cache_validation = choose_cache(
        training_images=data.size.images,
        training_size=cached_size(arguments.augmentation, image_size),
        validation_images=data.validation_images(arguments),
        validation_size=image_size,
        images_seen=arguments.max_steps * arguments.train_batch_size,
        allow_disk=arguments.augmentation == "none" or not arguments.deterministic,
    )

    def batches_from(first_step: int) -> LocatedBatches:
        return located_batches(
            training_batches,
            arguments,
            data,
            TRAIN,
            batch_size=arguments.train_batch_size,
            cache=training_cache,
            augmentation=arguments.augmentation,
            first_step=first_step,
            part=accelerators.part,
        )

    validation = _validation_batches(arguments, data, cache=cache_validation, part=accelerators.part)
    return TrainingInputs(image_trainable(classifier, arguments, data.manifest), batches_from, validation)


def _feature_inputs(
    classifier: Classifier, arguments: TrainingArguments, data: LocalData, accelerators: Accelerators
) -> TrainingInputs:
    """Runs the frozen backbone once over the data. Each worker computes the features of all images."""
    manifest = data.manifest

    def compute() -> Sequence[NDArray[Any]]:
        return _compute_all_features(classifier, arguments, data)

    if data.features_folder is None:
        arrays = compute()
    else:
        sample = {"images": arguments.num_eval_images, "seed": arguments.seed}
        key = {
            "data": manifest.digest(),
            "model_type": arguments.model_type,
            "image_size": arguments.resolved_image_size(),
            "resize": arguments.resize,
            "batch_size": arguments.resolved_eval_batch_size(),
            "validation": sample if arguments.num_eval_images else {},
        }
        arrays = shared_features(data.features_folder, key, classifier.backbone.variables, compute)
    features, targets, validation_features, validation_targets = arrays
    trainable = Trainable(
        classifier.head,
        tf.TensorSpec([None, features.shape[1]], tf.float32),
        classifier.trained_variables,
        decayed_kernels(classifier),
        classifier.head.variables,
        manifest.num_classes,
        _class_weights(arguments, manifest),
        multi_label=manifest.multi_label,
    )
    worker, workers = accelerators.part
    begin, end = (len(validation_targets) * index // workers for index in (worker, worker + 1))
    parts = [
        slice(start, min(start + _FEATURE_BATCH_SIZE, end))
        for start in range(begin, end, _FEATURE_BATCH_SIZE)
    ]

    def batches_from(first_step: int) -> Iterable[tuple[Any, Any]]:
        return feature_batches(
            features,
            targets,
            batch_size=arguments.train_batch_size,
            seed=arguments.seed,
            first_step=first_step,
            part=accelerators.part,
        )

    validation = [(validation_features[part], validation_targets[part]) for part in parts]
    return TrainingInputs(trainable, batches_from, validation)


def _compute_all_features(
    classifier: Classifier, arguments: TrainingArguments, data: LocalData
) -> Sequence[NDArray[Any]]:
    """Returns features and targets of the training images, then of the validation images."""
    image_size, width = arguments.resolved_image_size(), classifier.backbone.output_shape[-1]

    @tf.function(input_signature=(tf.TensorSpec([None, image_size, image_size, 3], tf.uint8),))
    def compute(images: Any) -> Any:
        return classifier.features(images, training=False)

    # In the order of the shards: the features are shuffled later.
    training = located_batches(
        evaluation_batches, arguments, data, TRAIN, batch_size=arguments.resolved_eval_batch_size()
    )
    counts = (data.size.images, data.validation_images(arguments))
    progress = Progress("train", sum(counts), "images through the frozen backbone")
    arrays: list[NDArray[Any]] = []
    for batches, count in zip((training, _validation_batches(arguments, data)), counts, strict=True):
        done = len(arrays[1]) if arrays else 0
        arrays += _compute_features(compute, batches, (count, width), progress, done=done)
    return arrays


def _compute_features(
    compute: Callable[[Any], Any],
    batches: Iterable[tuple[Any, Any]],
    shape: tuple[int, int],
    progress: Progress,
    *,
    done: int,
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Returns the features, float32 of ``shape`` = (images, features), and the targets of all batches."""
    features: NDArray[np.float32] = np.empty(shape, np.float32)
    targets: list[NDArray[Any]] = []
    filled = 0
    for images, batch_targets in batches:
        end = filled + len(batch_targets)
        if end <= len(features):
            features[filled:end] = compute(images).numpy()
        targets.append(batch_targets.numpy())
        filled = end
        progress.update(done + filled)
    if filled != len(features):
        raise InvalidDataError(
            f"the shards have {plural(filled, 'image')}, but the manifest says {len(features):,}",
            remedy="run the convert step again, because a file has changed since",
        )
    return features, np.concatenate(targets)


def _validation_batches(arguments: TrainingArguments, data: LocalData, **options: Any) -> LocatedBatches:
    return located_batches(
        evaluation_batches,
        arguments,
        data,
        VALIDATION,
        batch_size=arguments.resolved_eval_batch_size(),
        images=arguments.num_eval_images,
        **options,
    )


def located_batches(
    build_batches: Callable[..., tf.data.Dataset],
    arguments: TrainingArguments,
    data: LocalData,
    split_name: str,
    **options: Any,
) -> LocatedBatches:
    """Returns the batches of a split; ``options`` are further arguments of ``build_batches``."""
    manifest, split = data.manifest, data.manifest.splits[split_name]
    batches = build_batches(
        shard_paths(data.folder, split),
        shard_examples=[shard.examples for shard in split.shards],
        record_sizes=[shard.record_sizes for shard in split.shards],
        image_size=arguments.resolved_image_size(),
        seed=arguments.seed,
        resize=arguments.resize,
        multi_label_classes=manifest.num_classes if manifest.multi_label else 0,
        **options,
    )
    return LocatedBatches(batches, data.folder, split, multi_label=manifest.multi_label)


def _class_weights(arguments: TrainingArguments, manifest: Manifest) -> NDArray[np.float32] | None:
    if arguments.class_weights == "none":
        return None
    training = manifest.splits[TRAIN]
    if manifest.multi_label:
        return positive_weights(arguments.class_weights, training.images_per_label, training.examples)
    return class_weights(arguments.class_weights, training.images_per_label)
