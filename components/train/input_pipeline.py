"""From TFRecord shards to batches of decoded images.

What is in a batch is a function of the seed and of the number of the training step (``example_order``),
and records are read by their number (``record_reader``): a training goes on from any step without
reading what lies before, a worker reads its own part of each batch alone, and the number of threads has no
effect.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.components.common.records import CLASS_LABEL, IMAGE_ENCODED, label_to_class
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.train.augmentation import (
    NONE,
    choices_of,
    decode_and_vary,
    decode_for_keeping,
    draws_needed,
    kept_size,
    vary_kept,
)
from imgpipe.components.train.decoded_cache import CachePlace, DecodedCache
from imgpipe.components.train.example_order import ExampleOrder, random_draws
from imgpipe.components.train.label_bits import packed, unpacked, words_for
from imgpipe.components.train.record_reader import RecordReader

# Batches that are made at a time from kept images: while one is read, the other is scaled.
_BATCHES_AT_ONCE = 2
# Batches whose records the system is asked for before they are read: a disk or a network then serves
# hundreds of requests at a time.
_BATCHES_AHEAD = 8


def training_batches(
    paths: Sequence[Path],
    *,
    shard_examples: Sequence[int],
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: str = NONE,
    keep_decoded: CachePlace = CachePlace.NOWHERE,
    first_step: int = 0,
    part: tuple[int, int] = (0, 1),
    multi_label_classes: int = 0,
) -> tf.data.Dataset:
    """Returns endless full batches in an order that the seed decides, another one each epoch.

    Args:
        paths: The shards.
        shard_examples: How many examples each of them holds.
        image_size: Side of the images, in pixels.
        batch_size: Of all workers together.
        seed: Of the order and of the augmentation.
        augmentation: How images are varied: none, crop-flip or randaugment.
        keep_decoded: Where images stay once they are decoded, for later epochs. With augmentation,
            crops are then taken from a smaller image: the same crops of slightly other pixels.
        first_step: How many batches to leave out; what comes is what an endless iteration yields after them.
        part: ``(i, n)``: which contiguous part of each batch, the i-th (from 0) of n equal ones.
        multi_label_classes: N of a multi-label data set; 0 = each image has one label.

    Yields:
        uint8 [batch_size / n, image_size, image_size, 3] and int64 [batch_size / n]; of a multi-label data
        set float32 [batch_size / n, N], 1 for each label that the image has.

    Raises:
        InvalidArgumentError: if ``batch_size`` is no multiple of n.
    """
    worker, workers = part
    if batch_size % workers:
        raise InvalidArgumentError(
            f"train_batch_size={batch_size} cannot be divided among {workers} workers",
            remedy=f"give a multiple of {workers}",
        )
    size = batch_size // workers
    reader, order = RecordReader(paths, shard_examples), ExampleOrder(shard_examples, seed)
    # At least one: TensorFlow's unbatch() ends the process when an element is empty.
    width = max(1, draws_needed(augmentation))

    def numbers_and_choices(step: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        first = int(step) * batch_size + worker * size
        draws = random_draws(seed, first, size, width)
        return order.examples(first, size), draws if augmentation == NONE else choices_of(draws)

    def ahead(step: int) -> NDArray[np.int64]:
        # At the start, all that is ahead of it as well.
        steps = range(int(step) + _BATCHES_AHEAD * (int(step) != first_step), int(step) + _BATCHES_AHEAD + 1)
        return np.concatenate([order.examples(at * batch_size + worker * size, size) for at in steps])

    steps = _fixed_parallelism(tf.data.Dataset.range(first_step, np.iinfo(np.int64).max))
    if keep_decoded is CachePlace.NOWHERE:

        def records(step: int) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
            numbers, choices = numbers_and_choices(step)
            reader.announce(ahead(step))
            return _as_array(reader.read(numbers)), choices

        def parse(serialized: Any, chosen: Any) -> tuple[Any, Any, Any]:
            return *_parsed(serialized, multi_label_classes), chosen

        def decode(encoded: Any, label: Any, chosen: Any) -> tuple[Any, Any]:
            return decode_and_vary(encoded, chosen, augmentation, image_size), label

        specs = [tf.TensorSpec([size], tf.string), tf.TensorSpec([size, width], tf.float32)]
        made = _read(steps, records, specs).map(parse).unbatch()
        made = made.map(decode, num_parallel_calls=_images_at_once())
        return made.batch(size, drop_remainder=True).prefetch(2)

    cache = DecodedCache(
        sum(shard_examples),
        kept_size(augmentation, image_size),
        facts=2 + (words_for(multi_label_classes) or 1),
        place=keep_decoded,
    )

    def target_of(facts: Any) -> Any:
        return unpacked(facts[..., 2:], multi_label_classes) if multi_label_classes else facts[..., 2]

    def missing_records(step: int) -> tuple[Any, ...]:
        numbers, choices = numbers_and_choices(step)
        missing = np.flatnonzero(~cache.holds(numbers))
        if len(missing):
            later = ahead(step)
            reader.announce(later[~cache.holds(later)])
        return numbers, choices, missing, _as_array(reader.read(numbers[missing]))

    specs = [
        tf.TensorSpec([size], tf.int64),
        tf.TensorSpec([size, width], tf.float32),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([None], tf.string),
    ]
    complete = _completed(cache, augmentation, image_size, size, multi_label_classes)
    made = _read(steps, missing_records, specs).map(complete, _BATCHES_AT_ONCE)
    if augmentation == NONE:
        return made.map(lambda images, facts, _: (images, target_of(facts))).prefetch(2)

    def vary(image: Any, facts: Any, chosen: Any) -> tuple[Any, Any]:
        return vary_kept(image, facts[0], facts[1], chosen, augmentation, image_size), target_of(facts)

    made = made.unbatch().map(vary, num_parallel_calls=_images_at_once())
    return made.batch(size, drop_remainder=True).prefetch(2)


def evaluation_batches(
    paths: Sequence[Path],
    *,
    shard_examples: Sequence[int],
    image_size: int,
    batch_size: int,
    images: int = 0,
    seed: int = 0,
    keep_decoded: bool = False,
    part: tuple[int, int] = (0, 1),
    multi_label_classes: int = 0,
) -> tf.data.Dataset:
    """Returns a sample of the examples once, in their order; the last batch may be smaller.

    Args:
        paths: The shards.
        shard_examples: How many examples each of them holds.
        image_size: Side of the decoded images, in pixels.
        batch_size: Of all batches but the last.
        images: Size of the sample, at most the number of examples; 0 = all of them.
        seed: Of the sample.
        keep_decoded: Whether to keep the sample's decoded images in memory for the next time.
        part: ``(i, n)``: which contiguous part of the sample, the i-th (from 0) of n about equal ones.
        multi_label_classes: As in ``training_batches``.

    Yields:
        uint8 [up to batch_size, image_size, image_size, 3] and int64 [up to batch_size], or float32
        [up to batch_size, N].
    """
    reader, examples = RecordReader(paths, shard_examples), sum(shard_examples)
    numbers = sample_indices(examples, images, seed) if images else np.arange(examples)
    worker, workers = part
    numbers = numbers[worker * len(numbers) // workers : (worker + 1) * len(numbers) // workers]

    def records(batch: int) -> tuple[NDArray[np.object_]]:
        return (_as_array(reader.read(numbers[int(batch) * batch_size : (int(batch) + 1) * batch_size])),)

    def parse(serialized: Any) -> tuple[Any, Any]:
        return _parsed(serialized, multi_label_classes)

    def decode(encoded: Any, label: Any) -> tuple[Any, Any]:
        return decode_image(encoded, image_size), label

    batches = _fixed_parallelism(tf.data.Dataset.range(-(-len(numbers) // batch_size)))
    made = _read(batches, records, (tf.TensorSpec([None], tf.string),)).map(parse).unbatch()
    dataset = made.map(decode, num_parallel_calls=_images_at_once()).batch(batch_size)
    return (dataset.cache() if keep_decoded else dataset).prefetch(2)


def sample_indices(examples: int, count: int, seed: int) -> NDArray[np.int64]:
    """Returns ``count`` indices of 0..examples-1, ascending: one drawn from each of ``count`` equal parts.

    Data sorted by label gives each label its share, and so does data whose labels alternate, which
    evenly spaced indices would miss.
    """
    bounds = np.arange(count + 1) * examples // count
    return np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])


class FeatureBatches:
    """Endless full batches of features that lie in memory, shuffled anew each epoch; nothing is copied.

    Args:
        features: float32 [examples, features].
        classes: int64 [examples], or float32 [examples, N] of a multi-label data set.
        batch_size: Of all workers together; a multiple of the number of workers.
        seed: Of the order.
        first_step: How many batches to leave out, as in ``training_batches``.
        part: Which part of each batch, as in ``training_batches``.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        classes: NDArray[Any],
        *,
        batch_size: int,
        seed: int,
        first_step: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._features, self._classes = features, classes
        self._order = ExampleOrder([len(classes)], seed, block=1)
        self._batch_size, self._first_step = batch_size, first_step
        worker, workers = part
        self._size = batch_size // workers
        self._offset = worker * self._size

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """Yields float32 [batch_size / n, features] and as many of the classes."""
        position = self._first_step * self._batch_size + self._offset
        while True:
            chosen = self._order.examples(position, self._size)
            yield self._features[chosen], self._classes[chosen]
            position += self._batch_size


def _completed(
    cache: DecodedCache, augmentation: str, image_size: int, size: int, multi_label_classes: int
) -> Callable[..., Any]:
    """Returns the function that decodes and keeps what is missing of a batch: images, facts, choices."""
    side = kept_size(augmentation, image_size)
    fact_count = 2 + (words_for(multi_label_classes) or 1)

    def kept(record: tuple[Any, Any]) -> tuple[Any, Any]:
        encoded, label = record
        pixels, height, width = decode_for_keeping(encoded, augmentation, image_size)
        numbers = packed(label) if multi_label_classes else label[None]
        return pixels, tf.concat([tf.cast(tf.stack([height, width]), tf.int64), numbers], axis=0)

    def with_missing(
        numbers: NDArray[np.int64],
        missing: NDArray[np.int64],
        pixels: NDArray[np.uint8],
        facts: NDArray[np.int64],
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        cache.store(numbers[missing], pixels, facts)
        if len(missing) == len(numbers):
            return pixels, facts
        images, all_facts = cache.load(numbers)
        # They need not be there: the disk may be full.
        images[missing], all_facts[missing] = pixels, facts
        return images, all_facts

    def complete(numbers: Any, choices: Any, missing: Any, serialized: Any) -> tuple[Any, Any, Any]:
        specs = (tf.TensorSpec([side, side, 3], tf.uint8), tf.TensorSpec([fact_count], tf.int64))
        records = _parsed(serialized, multi_label_classes)
        decoded = tf.map_fn(kept, records, fn_output_signature=specs, parallel_iterations=usable_threads())
        images, facts = tf.numpy_function(
            with_missing, [numbers, missing, *decoded], (tf.uint8, tf.int64), stateful=True
        )
        images = tf.ensure_shape(images, [size, side, side, 3])
        return images, tf.ensure_shape(facts, [size, fact_count]), choices

    return complete


def _read(steps: tf.data.Dataset, read: Callable[[int], tuple[Any, ...]], specs: Sequence[Any]) -> Any:
    """Returns what ``read`` gives for each step, as tensors of the given shapes and types."""

    def reported(step: int) -> tuple[Any, ...]:
        try:
            return read(step)
        except PipelineError as error:
            # TensorFlow knows a few of Python's exceptions; LocatedBatches finds the record again.
            raise ValueError(str(error)) from None

    def read_step(step: Any) -> Any:
        values = tf.numpy_function(reported, [step], [spec.dtype for spec in specs])
        return tuple(tf.ensure_shape(value, spec.shape) for value, spec in zip(values, specs, strict=True))

    # One ahead, so that reading and decoding take place at the same time.
    return steps.map(read_step).prefetch(1)


def _images_at_once() -> int:
    # Two for each thread of TensorFlow's pool: when one is done, the next is waiting there already.
    return 2 * usable_threads()


def _as_array(records: Sequence[bytes]) -> NDArray[np.object_]:
    # Not an array of fixed length: those drop zeros at the end.
    array = np.empty(len(records), object)
    array[:] = records
    return array


def _parsed(serialized: Any, multi_label_classes: int) -> tuple[Any, Any]:
    """Returns the encoded images, string [n], and the classes, int64 [n], 0..N-1, of serialized records.

    With ``multi_label_classes`` = N it is, instead of classes, float32 [n, N], 1 for each label of an image.
    """
    several = tf.io.VarLenFeature(tf.int64)
    features = {
        IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
        CLASS_LABEL: several if multi_label_classes else tf.io.FixedLenFeature([], tf.int64),
    }
    examples = tf.io.parse_example(serialized, features)
    if multi_label_classes:
        # Where an image has fewer labels than another there is a 0, which is no label.
        classes = label_to_class(tf.sparse.to_dense(examples[CLASS_LABEL]))
        given = tf.reduce_sum(tf.one_hot(classes, multi_label_classes), axis=1)
        return examples[IMAGE_ENCODED], tf.minimum(given, 1.0)
    return examples[IMAGE_ENCODED], label_to_class(examples[CLASS_LABEL])


def _fixed_parallelism(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turns tf.data's autotuning off.

    One decoding thread a core is what it arrives at, and its optimization thread often holds up the
    end of an iteration for 4 to 18 seconds (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
