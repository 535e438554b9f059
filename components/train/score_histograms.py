"""The histograms of scores for ``label_sets.lowest_scores``, computed in the graph of the evaluation step."""

from typing import Any

from imgpipe.components.common.label_sets import INTERVALS, INTERVALS_PER_UNIT
from imgpipe.components.common.tf_import import tf


def margin_histogram(logits: Any, classes: Any, counted: Any) -> Any:
    """Returns float32 [INTERVALS]: how many images' true class has a margin in each interval.

    Args:
        logits: float32 [batch, N].
        classes: int64 [batch].
        counted: float32 [batch], 0 for padding images, otherwise 1.
    """
    is_true = tf.one_hot(classes, logits.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.reduce_max(tf.where(is_true, logits.dtype.min, logits), axis=-1)
    intervals = _intervals(tf.gather(logits, classes, batch_dims=1) - others)
    return tf.math.unsorted_segment_sum(counted, intervals, INTERVALS)


def positive_histograms(logits: Any, targets: Any, counted: Any) -> Any:
    """Returns float32 [N * INTERVALS]: for each label, how many images that have it have such a logit.

    ``targets`` are float32 [batch, N] of 0 and 1.
    """
    num_classes = logits.shape[1]
    cells = _intervals(logits) + INTERVALS * tf.range(num_classes)[None, :]
    weights = counted[:, None] * targets
    return tf.math.unsorted_segment_sum(
        tf.reshape(weights, [-1]), tf.reshape(cells, [-1]), num_classes * INTERVALS
    )


def _intervals(scores: Any) -> Any:
    """As ``label_sets.interval_of``."""
    # For large negative numbers, asinh is inexact.
    intervals = tf.floor(tf.sign(scores) * tf.asinh(tf.abs(scores)) * INTERVALS_PER_UNIT) + INTERVALS // 2
    # Clipped before the cast: a value beyond int32 would wrap around.
    return tf.cast(tf.clip_by_value(intervals, 0, INTERVALS - 1), tf.int32)
