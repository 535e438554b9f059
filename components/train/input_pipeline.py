"""From TFRecord shards to batches of decoded images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.image_decoding import decode_image
from components.common.quiet_tensorflow import tf
from components.common.records import CLASS_LABEL, IMAGE_ENCODED, label_to_class
from components.convert.parallel import usable_threads

# Decoded images are kept between epochs when the whole split takes no more than this.
_CACHE_BYTES = 2**30
# Encoded images that are shuffled at a time when the split is not kept decoded: at 100 KB an image
# about 200 MB, far more than a batch, on shards whose order the converter has shuffled already.
_SHUFFLE_EXAMPLES = 2048


def read_examples(paths: Sequence[Path]) -> tf.data.Dataset:
    """Returns the (encoded image: string, class: int64 of 0..N-1) pairs of the shards, in their order."""
    features = {
        IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
        CLASS_LABEL: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(serialized: Any) -> tuple[Any, Any]:
        example = tf.io.parse_single_example(serialized, features)
        return example[IMAGE_ENCODED], label_to_class(example[CLASS_LABEL])

    return _fixed_parallelism(tf.data.TFRecordDataset([str(path) for path in paths]).map(parse))


def training_batches(
    paths: Sequence[Path], *, examples: int, image_size: int, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Returns endless full batches in an order that the seed decides, another one each epoch.

    Args:
        paths: The shards.
        examples: How many examples they hold.
        image_size: Side of the decoded images, in pixels.
        batch_size: At most ``examples``.
        seed: Of the order.

    Yields:
        uint8 [batch_size, image_size, image_size, 3] and int64 [batch_size].
    """
    dataset = read_examples(paths)
    if examples * image_size * image_size * 3 <= _CACHE_BYTES:
        dataset = _decoded(dataset, image_size).cache().shuffle(examples, seed=seed).repeat()
    else:
        dataset = _decoded(dataset.shuffle(_SHUFFLE_EXAMPLES, seed=seed).repeat(), image_size)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(2)


def evaluation_batches(
    paths: Sequence[Path], *, image_size: int, batch_size: int, images: int = 0
) -> tf.data.Dataset:
    """Returns the first ``images`` examples (0 = all) once, in order; the last batch may be smaller.

    Yields:
        uint8 [up to batch_size, image_size, image_size, 3] and int64 [up to batch_size].
    """
    dataset = read_examples(paths)
    if images:
        dataset = dataset.take(images)
    return _decoded(dataset, image_size).batch(batch_size).prefetch(2)


def feature_batches(features: Any, classes: Any, *, batch_size: int, seed: int) -> tf.data.Dataset:
    """Returns endless full batches of features that lie in memory, shuffled anew each epoch.

    Yields:
        float32 [batch_size, features] and int64 [batch_size].
    """
    indices = _fixed_parallelism(
        tf.data.Dataset.range(len(classes)).shuffle(len(classes), seed=seed).repeat()
    )
    features, classes = tf.constant(features), tf.constant(classes)
    return (
        indices.batch(batch_size, drop_remainder=True)
        .map(lambda chosen: (tf.gather(features, chosen), tf.gather(classes, chosen)))
        .prefetch(2)
    )


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
