"""The sums that the temperature and the label sets are fitted from, in the graph of the evaluation step.

All functions get the ``logits``, float32 [batch, N]; the ``classes``, int64 [batch], or the ``targets``,
float32 [batch, N] of 0 and 1; and ``counted``, float32 [batch], 0 for padding images, otherwise 1.
"""

from collections.abc import Callable
from typing import Any

from imgpipe.components.common.label_sets import INTERVALS, INTERVALS_PER_UNIT
from imgpipe.components.common.temperature import INVERSE_TEMPERATURES
from imgpipe.components.common.tf_import import tf


def class_sums(logits: Any, classes: Any, counted: Any) -> Any:
    """Returns float32 [TEMPERATURE_SUMS] of a batch; see ``temperature.temperature_sums``."""
    logits -= tf.reduce_max(logits, axis=-1, keepdims=True)
    true = tf.gather(logits, classes, batch_dims=1)

    def at(inverse: Any) -> Any:
        probabilities = tf.nn.softmax(inverse * logits)
        mean = tf.reduce_sum(probabilities * logits, axis=-1)
        variance = tf.reduce_sum(probabilities * tf.square(logits - mean[:, None]), axis=-1)
        return tf.stack([tf.reduce_sum(counted * (mean - true)), tf.reduce_sum(counted * variance)])

    is_true = tf.one_hot(classes, logits.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.where(is_true, logits.dtype.min, logits)
    margin = tf.reduce_sum(counted * (true - tf.reduce_max(others, axis=-1)))
    return _concatenate(at, margin, tf.reduce_sum(counted))


def label_set_sums(logits: Any, targets: Any, counted: Any) -> Any:
    """Returns float32 [TEMPERATURE_SUMS] of a batch of a multi-label data set."""

    def at(inverse: Any) -> Any:
        probabilities = tf.sigmoid(inverse * logits)
        slopes = logits * (probabilities - targets)
        curvatures = tf.square(logits) * probabilities * (1 - probabilities)
        return tf.stack([tf.reduce_sum(counted[:, None] * values) for values in (slopes, curvatures)])

    margin = tf.reduce_sum(counted[:, None] * logits * (2 * targets - 1))
    return _concatenate(at, margin, tf.reduce_sum(counted) * logits.shape[1])


def _concatenate(at: Callable[[Any], Any], margin: Any, decisions: Any) -> Any:
    inverses = tf.constant(INVERSE_TEMPERATURES, tf.float32)
    # One after another: together, their probabilities would take 17 times the memory.
    derivatives = tf.map_fn(at, inverses, parallel_iterations=1)
    return tf.concat([derivatives[:, 0], derivatives[:, 1], [margin, decisions]], axis=0)


def margin_histogram(logits: Any, classes: Any, counted: Any) -> Any:
    """Returns float32 [INTERVALS]: how many images' true class has a margin in each interval.

    For ``label_sets.lowest_scores``, as ``positive_histograms``.
    """
    is_true = tf.one_hot(classes, logits.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    others = tf.reduce_max(tf.where(is_true, logits.dtype.min, logits), axis=-1)
    intervals = _intervals(tf.gather(logits, classes, batch_dims=1) - others)
    return tf.math.unsorted_segment_sum(counted, intervals, INTERVALS)


def positive_histograms(logits: Any, targets: Any, counted: Any) -> Any:
    """Returns float32 [N * INTERVALS]: for each label, how many images that have it have such a logit."""
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
