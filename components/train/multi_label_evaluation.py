"""What an evaluation during training finds where an image may have several labels, or none.

Average precision needs the images in the order of each label's probability. The devices sum up, for each
label, how many images with and without it have a logit in each of 1,024 narrow intervals: that takes the same
memory for any number of images, and adds up over batches, devices and workers. Images of one interval count
as equally probable; the evaluate step, which has every probability, measures without.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.evaluation import Evaluation, Measure

# Of logits from -16 to 16: an interval's odds differ by 3 percent from its neighbours'.
_INTERVALS = 1024
_INTERVALS_PER_UNIT = 32
# Logits from 0 on: probabilities from 0.5 on.
_FIRST_PREDICTED = _INTERVALS // 2
_SCALARS = 5
_TOP = 5


@dataclass(frozen=True)
class MultiLabelEvaluation(Evaluation):
    """What one evaluation found; the losses are binary cross-entropies in nats, the mean over the labels.

    ``top_1_accuracy`` is the share of the validation images with a label whose most probable label is one of
    theirs, ``top_5_accuracy`` the share of those that have one of theirs among the five most probable.

    Attributes:
        mean_average_precision: Mean over the labels of the area under the curve of precision over recall; of
            those labels that a validation image has. 0..1; the share of images with the label is what a model
            that guesses gets.
        f1: Of all decisions of all images and labels together (micro), with a label given from a probability
            of 0.5 on: 2 TP / (2 TP + FP + FN), 0..1.
    """

    mean_average_precision: float
    f1: float

    @property
    def standing(self) -> tuple[float, ...]:
        """The objective, then mean average precision: many models find one right label of each image."""
        return (self.top_1_accuracy, self.mean_average_precision)


def evaluation_of(values: Mapping[str, Any]) -> Evaluation:
    """Returns the evaluation whose fields are given, of whichever kind it was."""
    kind = MultiLabelEvaluation if "mean_average_precision" in values else Evaluation
    return kind(**values)


def multi_label_measure(num_classes: int) -> Measure:
    """Returns how the sums of ``multi_label_sums`` make an evaluation."""
    return Measure(_SCALARS + 2 * num_classes * _INTERVALS, _evaluation)


def multi_label_sums(logits: Any, targets: Any, counted: Any) -> Any:
    """Returns float32 [5 + 2 * N * 1024]: sums over the images of a batch.

    Args:
        logits: float32 [batch, N].
        targets: float32 [batch, N], 1 or 0.
        counted: float32 [batch], 0 for images that are there only to fill the batch.
    """
    num_classes = logits.shape[1]
    losses = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)
    labelled = counted * tf.reduce_max(targets, axis=-1)
    # argmax as in serving; the lowest class wins a tie.
    correct = tf.gather(targets, tf.argmax(logits, axis=-1), batch_dims=1)
    among_top = tf.math.top_k(logits, min(_TOP, num_classes)).indices
    in_top = tf.reduce_max(tf.gather(targets, among_top, batch_dims=1), axis=-1)
    scalars = [
        tf.reduce_sum(values)
        for values in (counted * correct, counted * in_top, labelled, counted * losses, counted)
    ]
    interval = tf.floor(logits * _INTERVALS_PER_UNIT) + _FIRST_PREDICTED
    # Before it is made whole: a number beyond int32 would wrap.
    interval = tf.cast(tf.clip_by_value(interval, 0, _INTERVALS - 1), tf.int32)
    cells = tf.reshape(interval + _INTERVALS * tf.range(num_classes)[None, :], [-1])
    histograms = [
        tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), cells, num_classes * _INTERVALS)
        for values in (counted[:, None] * targets, counted[:, None] * (1 - targets))
    ]
    return tf.concat([tf.stack(scalars), *histograms], axis=0)


def _evaluation(sums: NDArray[np.float64], step: int, train_loss: float) -> Evaluation:
    correct, in_top, labelled, loss, count = sums[:_SCALARS].tolist()
    with_label, without = sums[_SCALARS:].reshape(2, -1, _INTERVALS)
    predicted = slice(_FIRST_PREDICTED, None)
    hits, false_alarms = with_label[:, predicted].sum(), without[:, predicted].sum()
    # 2 TP + FP + FN, since TP + FN is how often a label is there.
    decisions = hits + false_alarms + with_label.sum()
    return MultiLabelEvaluation(
        step,
        correct / labelled if labelled else 0.0,
        in_top / labelled if labelled else 0.0,
        loss / count,
        train_loss,
        mean_average_precision(with_label, without),
        float(2 * hits / decisions) if decisions else 0.0,
    )


def mean_average_precision(with_label: NDArray[np.float64], without: NDArray[np.float64]) -> float:
    """Returns the mean of the labels' average precisions; 0 if no image has a label.

    Average precision is the sum of the precisions at each threshold, weighted by the rise in recall, as
    scikit-learn's ``average_precision_score`` defines it.

    Args:
        with_label: [N, intervals], how many images that have the label are in each interval; the intervals
            ascend in probability.
        without: [N, intervals], likewise for images that do not have it.
    """
    falling = with_label[:, ::-1]
    hits, all_so_far = falling.cumsum(axis=1), (falling + without[:, ::-1]).cumsum(axis=1)
    precision = hits / np.maximum(all_so_far, 1)
    there = hits[:, -1] > 0
    if not there.any():
        return 0.0
    average = (precision * falling).sum(axis=1)[there] / hits[there, -1]
    return float(average.mean())
