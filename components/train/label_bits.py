"""Which labels an image has, as numbers that are kept beside it: one bit a label."""

from typing import Any

from imgpipe.components.common.tf_import import tf

_BITS = 64


def words_for(num_classes: int) -> int:
    """Returns how many int64 numbers hold a bit for each class."""
    return -(-num_classes // _BITS)


def packed(targets: Any) -> Any:
    """Returns int64 [..., words] of which bit i of number j is class 64 j + i.

    Args:
        targets: float32 [..., N], 1 or 0.
    """
    num_classes = targets.shape[-1]
    missing = _BITS * words_for(num_classes) - num_classes
    padding = [[0, 0]] * (len(targets.shape) - 1) + [[0, missing]]
    bits = tf.cast(tf.pad(targets, padding), tf.int64)
    words = tf.reshape(bits, [*targets.shape[:-1], -1, _BITS])
    return tf.reduce_sum(tf.bitwise.left_shift(words, tf.range(_BITS, dtype=tf.int64)), axis=-1)


def unpacked(words: Any, num_classes: int) -> Any:
    """Returns the targets, float32 [..., N], of int64 [..., words]."""
    bits = tf.bitwise.right_shift(words[..., None], tf.range(_BITS, dtype=tf.int64)) & 1
    flat = tf.reshape(bits, tf.concat([tf.shape(words)[:-1], [-1]], axis=0))
    targets = tf.cast(flat[..., :num_classes], tf.float32)
    targets.set_shape([*words.shape[:-1], num_classes])
    return targets
