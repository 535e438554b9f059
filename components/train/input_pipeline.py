"""From TFRecord shards to batches of decoded images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.image_decoding import decode_image
from components.common.quiet_tensorflow import tf
from components.common.records import CLASS_LABEL, IMAGE_ENCODED, label_to_class
from components.common.threads import usable_threads

# Decoded images, of training and validation together, that are kept from one pass to the next.
_CACHE_BYTES = 2**30
# Encoded images that are shuffled at a time when the split is not kept decoded: at 100 KB an image
# about 200 MB, far more than a batch.
_SHUFFLE_EXAMPLES = 2048
# Shards that are read in turns, so that shards of one label each, as users' own may be, mix.
_SHARDS_AT_ONCE = 16


def kept_decoded(*, training_images: int, validation_images: int, image_size: int) -> tuple[bool, bool]:
    """Returns whether the training and the validation images stay in memory once they are decoded.

    What stays takes at most 1 GiB. The training images come first: they are seen more often.
    """
    image_bytes = image_size * image_size * 3
    training = training_images * image_bytes <= _CACHE_BYTES
    left = _CACHE_BYTES - training_images * image_bytes * training
    return training, validation_images * image_bytes <= left


def training_batches(
    paths: Sequence[Path],
    *,
    examples: int,
    image_size: int,
    batch_size: int,
    seed: int,
    keep_decoded: bool,
) -> tf.data.Dataset:
    """Returns endless full batches in an order that the seed decides, another one each epoch.

    Args:
        paths: The shards.
        examples: How many examples they hold.
        image_size: Side of the decoded images, in pixels.
        batch_size: At most ``examples``.
        seed: Of the order.
        keep_decoded: Whether to keep all decoded images in memory. If so, the order is drawn from all of
            them; if not, from some thousand of up to 16 shards at a time.

    Yields:
        uint8 [batch_size, image_size, image_size, 3] and int64 [batch_size].
    """
    shards = len(paths)
    names = tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).shuffle(shards, seed=seed)
    records = names.interleave(tf.data.TFRecordDataset, cycle_length=min(_SHARDS_AT_ONCE, shards))
    dataset = _parsed(records)
    if keep_decoded:
        dataset = _decoded(dataset, image_size).cache().shuffle(examples, seed=seed).repeat()
    else:
        dataset = _decoded(dataset.shuffle(_SHUFFLE_EXAMPLES, seed=seed).repeat(), image_size)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(2)


def evaluation_batches(
    paths: Sequence[Path],
    *,
    examples: int,
    image_size: int,
    batch_size: int,
    images: int = 0,
    seed: int = 0,
    keep_decoded: bool = False,
) -> tf.data.Dataset:
    """Returns a sample of the examples once, in their order; the last batch may be smaller.

    Args:
        paths: The shards.
        examples: How many examples they hold.
        image_size: Side of the decoded images, in pixels.
        batch_size: Of all batches but the last.
        images: Size of the sample, at most ``examples``; 0 = all of them.
        seed: Of the sample.
        keep_decoded: Whether to keep the sample's decoded images in memory for the next time.

    Yields:
        uint8 [up to batch_size, image_size, image_size, 3] and int64 [up to batch_size].
    """
    records = tf.data.TFRecordDataset([str(path) for path in paths])
    if images:
        chosen = np.zeros(examples, bool)
        chosen[sample_indices(examples, images, seed)] = True
        pairs = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(chosen))
        # take() ends the reading behind the last one.
        records = pairs.filter(lambda _, wanted: wanted).map(lambda record, _: record).take(images)
    dataset = _decoded(_parsed(records), image_size).batch(batch_size)
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
        classes: int64 [examples].
        batch_size: At most the number of examples.
        seed: Of the order.
    """

    def __init__(
        self, features: NDArray[np.float32], classes: NDArray[np.int64], *, batch_size: int, seed: int
    ) -> None:
        self._features, self._classes = features, classes
        indices = tf.data.Dataset.range(len(classes)).shuffle(len(classes), seed=seed).repeat()
        self._indices = _fixed_parallelism(indices).batch(batch_size, drop_remainder=True).prefetch(2)

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yields float32 [batch_size, features] and int64 [batch_size]."""
        for chosen in self._indices.as_numpy_iterator():
            yield self._features[chosen], self._classes[chosen]


def _parsed(records: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the (encoded image: string, class: int64 of 0..N-1) pairs of serialized records."""
    features = {
        IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
        CLASS_LABEL: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(serialized, features)
        return example[IMAGE_ENCODED], label_to_class(example[CLASS_LABEL])

    return _fixed_parallelism(records.map(parse))


def _decoded(dataset: tf.data.Dataset, image_size: int) -> tf.data.Dataset:
    return dataset.map(
        lambda encoded, label: (decode_image(encoded, image_size), label),
        num_parallel_calls=usable_threads(),
    )


def _fixed_parallelism(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turns tf.data's autotuning off.

    One decoding thread a core is what it arrives at, and its optimization thread often holds up the
    end of an iteration for 4 to 18 seconds (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
