"""Reads batches of decoded images from TFRecord shards.

The content of a batch is a function of the seed and the number of the training step (``example_order``), and
records are read by index (``record_reader``). Training can therefore resume from any step without reading
earlier data, each worker reads only its part of a batch, and the number of threads has no influence.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.records import CLASS_LABEL, IMAGE_ENCODED, label_to_class
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.images.resize_modes import STRETCH
from imgpipe.components.train.augmentation import (
    NONE,
    augment_cached,
    cached_size,
    crop_parameters,
    decode_and_augment,
    decode_for_cache,
    draws_needed,
)
from imgpipe.components.train.decoded_cache import CacheLocation, DecodedCache
from imgpipe.components.train.example_order import ExampleOrder, random_draws
from imgpipe.components.train.record_reader import RecordReader

# Batches of cached images that are prepared at a time: one is read while the other is scaled.
_CACHED_BATCHES_AT_ONCE = 2
# Batches whose records are prefetched by the operating system, so that a disk or a network serves hundreds of
# requests at a time.
_BATCHES_AHEAD = 8


def training_batches(
    paths: Sequence[Path],
    *,
    shard_examples: Sequence[int],
    record_sizes: Sequence[str] = (),
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: str = NONE,
    cache: CacheLocation = CacheLocation.NONE,
    first_step: int = 0,
    part: tuple[int, int] = (0, 1),
    multi_label_classes: int = 0,
    resize: str = STRETCH,
) -> tf.data.Dataset:
    """Returns endless full batches, reshuffled in each epoch in an order determined by the seed.

    Args:
        paths: The shards.
        shard_examples: Number of examples in each shard.
        record_sizes: The manifest's sizes of the records of each shard, if it has them.
        image_size: Side of the images, in pixels.
        batch_size: Images of all workers together; a multiple of their number.
        seed: Seed of the order and of the augmentation.
        augmentation: ``none``, ``crop-flip`` or ``randaugment``.
        cache: Where decoded images are cached for later epochs. With augmentation, crops are then taken from
            a smaller image: the same crops with slightly different pixels.
        first_step: Number of batches to skip. The rest is the same as without skipping.
        part: ``(i, n)``: the i-th (from 0) of n equal contiguous parts of each batch.
        multi_label_classes: N in a multi-label data set, otherwise 0.
        resize: How an image becomes a square: ``stretch``, ``crop`` or ``letterbox``.

    Yields:
        uint8 [batch_size / n, image_size, image_size, 3] and classes, int64 [batch_size / n]; in a
        multi-label data set targets, float32 [batch_size / n, N], 1 for each label of the image.
    """
    worker, workers = part
    size = batch_size // workers
    reader, order = RecordReader(paths, shard_examples, record_sizes), ExampleOrder(shard_examples, seed)
    # At least one: TensorFlow's unbatch() crashes the process if an element is empty.
    width = max(1, draws_needed(augmentation))

    def indices_and_parameters(step: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        first = int(step) * batch_size + worker * size
        parameters = random_draws(seed, first, size, width)
        if augmentation != NONE:
            parameters = crop_parameters(parameters, augmentation)
        return order.examples(first, size), parameters

    def indices_ahead(step: int) -> NDArray[np.int64]:
        # The first step prefetches all following batches, each later step one more.
        steps = range(int(step) + _BATCHES_AHEAD * (int(step) != first_step), int(step) + _BATCHES_AHEAD + 1)
        return np.concatenate([order.examples(ahead * batch_size + worker * size, size) for ahead in steps])

    steps = _without_autotuning(tf.data.Dataset.range(first_step, np.iinfo(np.int64).max))
    if cache is CacheLocation.NONE:

        def records(step: int) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
            indices, parameters = indices_and_parameters(step)
            reader.prefetch(indices_ahead(step))
            return _as_array(reader.read(indices)), parameters

        def parse(serialized: Any, parameters: Any) -> tuple[Any, Any, Any]:
            return *_parse(serialized, multi_label_classes), parameters

        def decode(encoded: Any, target: Any, parameters: Any) -> tuple[Any, Any]:
            return decode_and_augment(encoded, parameters, augmentation, image_size, resize), target

        specs = [tf.TensorSpec([size], tf.string), tf.TensorSpec([size, width], tf.float32)]
        batches = _read(steps, records, specs).map(parse).unbatch()
        batches = batches.map(decode, num_parallel_calls=_images_at_once())
        return batches.batch(size, drop_remainder=True).prefetch(2)

    decoded = DecodedCache(
        sum(shard_examples), cached_size(augmentation, image_size), multi_label_classes, cache
    )

    def missing_records(step: int) -> tuple[Any, ...]:
        indices, parameters = indices_and_parameters(step)
        missing = np.flatnonzero(~decoded.contains(indices))
        if len(missing):
            ahead = indices_ahead(step)
            reader.prefetch(ahead[~decoded.contains(ahead)])
        return indices, parameters, missing, _as_array(reader.read(indices[missing]))

    specs = [
        tf.TensorSpec([size], tf.int64),
        tf.TensorSpec([size, width], tf.float32),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None], tf.string),
    ]
    complete = _complete_from_cache(decoded, augmentation, image_size, size, multi_label_classes, resize)
    batches = _read(steps, missing_records, specs).map(complete, _CACHED_BATCHES_AT_ONCE)
    if augmentation == NONE:
        return batches.map(lambda images, _sizes, targets, _parameters: (images, targets)).prefetch(2)

    def augment(image: Any, original_size: Any, target: Any, parameters: Any) -> tuple[Any, Any]:
        return augment_cached(image, original_size, parameters, augmentation, image_size), target

    batches = batches.unbatch().map(augment, num_parallel_calls=_images_at_once())
    return batches.batch(size, drop_remainder=True).prefetch(2)


def evaluation_batches(
    paths: Sequence[Path],
    *,
    shard_examples: Sequence[int],
    record_sizes: Sequence[str] = (),
    image_size: int,
    batch_size: int,
    images: int = 0,
    seed: int = 0,
    cache: bool = False,
    part: tuple[int, int] = (0, 1),
    multi_label_classes: int = 0,
    resize: str = STRETCH,
) -> tf.data.Dataset:
    """Returns a sample of the examples once, in order; the last batch may be smaller.

    Args:
        paths: The shards.
        shard_examples: Number of examples in each shard.
        record_sizes: The manifest's sizes of the records of each shard, if it has them.
        image_size: Side of the images, in pixels.
        batch_size: Size of all batches but the last.
        images: Size of the sample, at most the number of examples; 0 = all of them.
        seed: Seed of the sample.
        cache: Whether to cache the decoded images in memory for the next iteration.
        part: ``(i, n)``: the i-th (from 0) of n contiguous parts of the sample of about equal size.
        multi_label_classes: As in ``training_batches``.
        resize: As in ``training_batches``.

    Yields:
        As ``training_batches``, with up to ``batch_size`` images.
    """
    reader, examples = RecordReader(paths, shard_examples, record_sizes), sum(shard_examples)
    indices = sample_indices(examples, images, seed) if images else np.arange(examples)
    worker, workers = part
    indices = indices[worker * len(indices) // workers : (worker + 1) * len(indices) // workers]

    def records(batch: int) -> tuple[NDArray[np.object_]]:
        return (_as_array(reader.read(indices[int(batch) * batch_size : (int(batch) + 1) * batch_size])),)

    def parse(serialized: Any) -> tuple[Any, Any]:
        return _parse(serialized, multi_label_classes)

    def decode(encoded: Any, target: Any) -> tuple[Any, Any]:
        return decode_image(encoded, image_size, resize), target

    steps = _without_autotuning(tf.data.Dataset.range(-(-len(indices) // batch_size)))
    parsed = _read(steps, records, (tf.TensorSpec([None], tf.string),)).map(parse).unbatch()
    batches = parsed.map(decode, num_parallel_calls=_images_at_once()).batch(batch_size)
    return (batches.cache() if cache else batches).prefetch(2)


def sample_indices(examples: int, count: int, seed: int) -> NDArray[np.int64]:
    """Returns ``count`` indices of 0..examples-1, ascending: one drawn from each of ``count`` equal parts.

    Every label is represented proportionally both in data that is sorted by label and in data with
    alternating labels, which evenly spaced indices would miss.
    """
    bounds = np.arange(count + 1) * examples // count
    return np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])


def feature_batches(
    features: NDArray[np.float32],
    targets: NDArray[Any],
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """Yields endless full batches of features in memory, reshuffled in each epoch.

    Args:
        features: float32 [examples, features].
        targets: Classes, int64 [examples], or float32 [examples, N] of a multi-label data set.
        batch_size: Examples of all workers together; a multiple of the number of workers.
        seed: Seed of the order.
        first_step: Number of batches to skip, as in ``training_batches``.
        part: The part of each batch, as in ``training_batches``.

    Yields:
        float32 [batch_size / n, features] and as many of the targets.
    """
    order = ExampleOrder([len(targets)], seed, block=1)
    worker, workers = part
    size = batch_size // workers
    position = first_step * batch_size + worker * size
    while True:
        indices = order.examples(position, size)
        yield features[indices], targets[indices]
        position += batch_size


def _complete_from_cache(
    cache: DecodedCache,
    augmentation: str,
    image_size: int,
    size: int,
    multi_label_classes: int,
    resize: str,
) -> Callable[..., Any]:
    """Returns the function that decodes and caches the missing images of a batch and loads the others."""
    side = cached_size(augmentation, image_size)
    target_spec = _target_spec(size, multi_label_classes)

    def decode(encoded: Any) -> tuple[Any, Any]:
        return decode_for_cache(encoded, augmentation, image_size, resize)

    def store_and_load(
        indices: NDArray[np.int64],
        missing: NDArray[np.int64],
        images: NDArray[np.uint8],
        sizes: NDArray[np.int32],
        targets: NDArray[Any],
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[Any]]:
        cache.store(indices[missing], images, sizes, targets)
        if len(missing) == len(indices):
            return images, sizes, targets
        all_images, all_sizes, all_targets = cache.load(indices)
        # They may not have been stored: the disk may be full.
        all_images[missing], all_sizes[missing], all_targets[missing] = images, sizes, targets
        return all_images, all_sizes, all_targets

    def complete(indices: Any, parameters: Any, missing: Any, serialized: Any) -> tuple[Any, ...]:
        encoded, targets = _parse(serialized, multi_label_classes)
        specs = (tf.TensorSpec([side, side, 3], tf.uint8), tf.TensorSpec([2], tf.int32))
        images, sizes = tf.map_fn(
            decode, encoded, fn_output_signature=specs, parallel_iterations=usable_threads()
        )
        batch = tf.numpy_function(
            store_and_load,
            [indices, missing, images, sizes, targets],
            (tf.uint8, tf.int32, target_spec.dtype),
            stateful=True,
        )
        shapes = ([size, side, side, 3], [size, 2], target_spec.shape)
        batch = [tf.ensure_shape(values, shape) for values, shape in zip(batch, shapes, strict=True)]
        return *batch, parameters

    return complete


def _read(steps: tf.data.Dataset, read: Callable[[int], tuple[Any, ...]], specs: Sequence[Any]) -> Any:
    """Returns the arrays of ``read(step)`` for each step, as tensors of the given shapes and types."""

    def read_or_raise(step: int) -> tuple[Any, ...]:
        try:
            return read(step)
        except PipelineError as error:
            # TensorFlow converts only some of Python's exceptions; LocatedBatches finds the record again.
            raise ValueError(str(error)) from None

    def read_step(step: Any) -> Any:
        values = tf.numpy_function(read_or_raise, [step], [spec.dtype for spec in specs])
        return tuple(tf.ensure_shape(value, spec.shape) for value, spec in zip(values, specs, strict=True))

    # Prefetched, so that reading and decoding overlap.
    return steps.map(read_step).prefetch(1)


def _images_at_once() -> int:
    # Two for each thread of TensorFlow's pool, so that a thread that finishes one finds the next.
    return 2 * usable_threads()


def _as_array(records: Sequence[bytes]) -> NDArray[np.object_]:
    # Not np.array(records): arrays of fixed length drop trailing zeros.
    array = np.empty(len(records), object)
    array[:] = records
    return array


def _target_spec(size: int | None, multi_label_classes: int) -> tf.TensorSpec:
    if multi_label_classes:
        return tf.TensorSpec([size, multi_label_classes], tf.float32)
    return tf.TensorSpec([size], tf.int64)


def _parse(serialized: Any, multi_label_classes: int) -> tuple[Any, Any]:
    label_feature = (
        tf.io.VarLenFeature(tf.int64) if multi_label_classes else tf.io.FixedLenFeature([], tf.int64)
    )
    features = {IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string), CLASS_LABEL: label_feature}
    examples = tf.io.parse_example(serialized, features)
    if multi_label_classes:
        # to_dense pads the rows with 0, which is not a label: one_hot ignores its class -1.
        classes = label_to_class(tf.sparse.to_dense(examples[CLASS_LABEL]))
        counts = tf.reduce_sum(tf.one_hot(classes, multi_label_classes), axis=1)
        return examples[IMAGE_ENCODED], tf.minimum(counts, 1.0)
    return examples[IMAGE_ENCODED], label_to_class(examples[CLASS_LABEL])


def _without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turns tf.data's autotuning off.

    It settles at one decoding thread per core, and its optimization thread often delays the end of an
    iteration by 4 to 18 seconds (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
