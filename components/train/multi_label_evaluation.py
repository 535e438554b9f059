"""Evaluation during training of multi-label data sets, whose images may have several labels or none.

Average precision needs the images in the order of each label's probability. For each label, the devices count
the images with and without it in 1,024 narrow intervals of the logit: this takes the same memory for any
number of images, and adds up over batches, devices and workers. Images in the same interval count as equally
probable; the evaluate step, which has all probabilities, computes the exact value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.label_sets import INTERVALS, lowest_scores
from imgpipe.components.common.temperature import TEMPERATURE_SUMS, fit_temperature
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.evaluation import Evaluation, Measure
from imgpipe.components.train.evaluation_sums import label_set_sums, positive_histograms

# For logits from -16 to 16: the odds of neighboring intervals differ by 3 percent.
_INTERVALS = 1024
_INTERVALS_PER_UNIT = 32
# The interval of logit 0: a label is predicted from a probability of 0.5 on.
_FIRST_PREDICTED = _INTERVALS // 2
_SCALARS = 5
_HISTOGRAMS = _SCALARS + TEMPERATURE_SUMS
_TOP = 5


@dataclass(frozen=True)
class MultiLabelEvaluation(Evaluation):
    """The result of one evaluation; losses are binary cross-entropies in nats, averaged over the labels.

    Of the validation images that have a label, ``top_1_accuracy`` is the fraction whose most probable label
    is correct, and ``top_5_accuracy`` the fraction with a correct label among the five most probable.

    Attributes:
        mean_average_precision: Mean of the area under the precision-recall curve over the labels that occur
            in the validation images, 0..1. Random guessing scores the fraction of images with the label.
        f1: Micro-averaged over all images and labels, with a label predicted from a probability of 0.5 on:
            2 TP / (2 TP + FP + FN), 0..1.
    """

    mean_average_precision: float
    f1: float

    @property
    def ranking_key(self) -> tuple[float, ...]:
        """Top-1 accuracy, then mean average precision, since many models tie on one label per image."""
        return (self.top_1_accuracy, self.mean_average_precision)


def evaluation_of(values: Mapping[str, Any]) -> Evaluation:
    """Returns the single-label or multi-label evaluation with the given fields."""
    evaluation_class = MultiLabelEvaluation if "mean_average_precision" in values else Evaluation
    return evaluation_class(**{**values, "set_scores": tuple(values["set_scores"])})


def multi_label_measure(num_classes: int) -> Measure:
    """Returns the measure for logits float32 [batch, N] and targets float32 [batch, N] of 0 and 1."""
    return Measure(_HISTOGRAMS + 2 * num_classes * _INTERVALS + num_classes * INTERVALS, _sums, _evaluation)


def _sums(logits: Any, targets: Any, counted: Any) -> Any:
    """Returns five scalars, the sums for the temperature, and the histograms [2, N, 1024] of the logits.

    The first histograms are those of the images with a label, the others those without it. Last are the
    histograms [N, 1024] of the scores of label sets, of the images with a label.
    """
    num_classes = logits.shape[1]
    losses = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)
    labeled = counted * tf.reduce_max(targets, axis=-1)
    # argmax as in serving: the lowest class wins a tie.
    correct = tf.gather(targets, tf.argmax(logits, axis=-1), batch_dims=1)
    top_classes = tf.math.top_k(logits, min(_TOP, num_classes)).indices
    in_top = tf.reduce_max(tf.gather(targets, top_classes, batch_dims=1), axis=-1)
    scalars = [
        tf.reduce_sum(values)
        for values in (counted * correct, counted * in_top, labeled, counted * losses, counted)
    ]
    interval = tf.floor(logits * _INTERVALS_PER_UNIT) + _FIRST_PREDICTED
    # Clipped before the cast: a value beyond int32 would wrap around.
    interval = tf.cast(tf.clip_by_value(interval, 0, _INTERVALS - 1), tf.int32)
    cells = tf.reshape(interval + _INTERVALS * tf.range(num_classes)[None, :], [-1])
    histograms = [
        tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), cells, num_classes * _INTERVALS)
        for values in (counted[:, None] * targets, counted[:, None] * (1 - targets))
    ]
    temperature = label_set_sums(logits, targets, counted)
    positives = positive_histograms(logits, targets, counted)
    return tf.concat([tf.stack(scalars), temperature, *histograms, positives], axis=0)


def _evaluation(sums: NDArray[np.float64], step: int, train_loss: float, coverage: float) -> Evaluation:
    correct, in_top, labeled, loss, count = sums[:_SCALARS].tolist()
    # Both kinds of histograms have 1,024 intervals.
    with_label, without, positives = sums[_HISTOGRAMS:].reshape(3, -1, _INTERVALS)
    predicted = slice(_FIRST_PREDICTED, None)
    hits, false_alarms = with_label[:, predicted].sum(), without[:, predicted].sum()
    # 2 TP + FP + FN, since TP + FN is the number of labels.
    denominator = hits + false_alarms + with_label.sum()
    return MultiLabelEvaluation(
        step,
        correct / labeled if labeled else 0.0,
        in_top / labeled if labeled else 0.0,
        loss / count,
        train_loss,
        mean_average_precision(with_label, without),
        float(2 * hits / denominator) if denominator else 0.0,
        temperature=fit_temperature(sums[_SCALARS:_HISTOGRAMS]),
        set_scores=lowest_scores(positives, coverage),
    )


def mean_average_precision(with_label: NDArray[np.float64], without: NDArray[np.float64]) -> float:
    """Returns the mean of the labels' average precisions; 0 if no image has a label.

    Average precision is the sum of the precisions at each threshold, weighted by the increase in recall, as
    defined by scikit-learn's ``average_precision_score``.

    Args:
        with_label: [N, intervals], the number of images with the label in each interval, in increasing order
            of probability.
        without: [N, intervals], the number of images without the label.
    """
    descending = with_label[:, ::-1]
    hits, predicted = descending.cumsum(axis=1), (descending + without[:, ::-1]).cumsum(axis=1)
    precision = hits / np.maximum(predicted, 1)
    occurs = hits[:, -1] > 0
    if not occurs.any():
        return 0.0
    average = (precision * descending).sum(axis=1)[occurs] / hits[occurs, -1]
    return float(average.mean())
