"""Metrics of a model's predictions when an image may have several labels, or none; NumPy only.

``targets`` is always bool [examples, N], whether an image has a label, and ``probabilities`` is
[examples, N]. A label counts as predicted if its probability is at least 0.5.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.evaluate.metrics import (
    MIN_PROBABILITY,
    TOP_K,
    ClassMetrics,
    check_probabilities,
    class_counts,
    mean_of_defined,
    row_chunks,
    top_k_correct,
)

THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelMetrics(ClassMetrics):
    """The metrics of one label; None where the fraction is 0/0.

    Attributes:
        average_precision: Area under the precision-recall curve: the precisions at each threshold, weighted
            by the increase in recall, as in scikit-learn. Random predictions get the fraction of images with
            the label. None if no image has the label.
    """

    average_precision: float | None


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The metrics of an evaluation: Python numbers.

    Attributes:
        examples: Number of images.
        without_label: Number of images without a label.
        top_1_accuracy: Fraction of the images with a label whose most probable label is one of theirs.
        top_5_accuracy: Fraction of the images with a label that have one among the min(5, N) most probable.
        loss: Mean binary cross-entropy over images and labels, in nats; a probability below 1e-7 counts as
            1e-7.
        mean_average_precision: Mean of the labels' defined average precisions.
        f1: F1 over all images and labels together (micro).
        exact_match: Fraction of images with all labels predicted correctly.
        macro_precision: Mean of the labels' defined precisions; None if none is defined.
        macro_recall: Mean of the labels' defined recalls; None if none is defined.
        macro_f1: Mean of the labels' defined F1; None if none is defined.
        per_class: The metrics of each label.
    """

    examples: int
    without_label: int
    top_1_accuracy: float
    top_5_accuracy: float
    loss: float
    mean_average_precision: float
    f1: float
    exact_match: float
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    per_class: tuple[LabelMetrics, ...]

    @property
    def wrong(self) -> int:
        """Number of images with an incorrectly predicted label."""
        return self.examples - round(self.exact_match * self.examples)

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as JSON values."""
        return {"multi_label": True, **dataclasses.asdict(self)}


def compute_multi_label_metrics(
    targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]
) -> MultiLabelMetrics:
    """Computes the metrics of a model's predictions.

    Raises:
        InvalidDataError: if no image has a label, or a probability is NaN or infinite.
    """
    check_probabilities(probabilities)
    labeled = targets.any(axis=1)
    if not labeled.any():
        raise InvalidDataError(
            "no image of the evaluation has a label", remedy="add images with labels to the split"
        )
    predicted = probabilities >= THRESHOLD
    counts = (array.sum(axis=0).tolist() for array in (targets & predicted, targets, predicted))
    per_class = tuple(
        LabelMetrics(**class_counts(*cell), average_precision=average_precision(target, of_label))
        for *cell, target, of_label in zip(*counts, targets.T, probabilities.T, strict=True)
    )
    hits, decisions = int((targets & predicted).sum()), int(targets.sum() + predicted.sum())
    return MultiLabelMetrics(
        examples=len(targets),
        without_label=int((~labeled).sum()),
        top_1_accuracy=float(top_k_correct(targets, probabilities, 1)[labeled].mean()),
        top_5_accuracy=float(top_k_correct(targets, probabilities, TOP_K)[labeled].mean()),
        loss=_cross_entropy(targets, probabilities),
        # Not None, and f1 is defined, because an image has a label.
        mean_average_precision=mean_of_defined(metrics.average_precision for metrics in per_class) or 0.0,
        f1=2 * hits / decisions,
        exact_match=float((targets == predicted).all(axis=1).mean()),
        macro_precision=mean_of_defined(metrics.precision for metrics in per_class),
        macro_recall=mean_of_defined(metrics.recall for metrics in per_class),
        macro_f1=mean_of_defined(metrics.f1 for metrics in per_class),
        per_class=per_class,
    )


def average_precision(target: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the average precision of one label; None if no image has it.

    Args:
        target: bool [examples], whether an image has the label.
        probabilities: [examples].
    """
    if not target.any():
        return None
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(target[order])
    # Equal probabilities share a threshold: the last of them counts.
    last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    precision, new_hits = hits[last] / (last + 1), np.diff(hits[last], prepend=0)
    return float((precision * new_hits).sum() / hits[-1])


def _cross_entropy(targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]) -> float:
    total = 0.0
    for rows in row_chunks(probabilities):
        chunk = probabilities[rows].astype(np.float64)
        of_target = np.where(targets[rows], chunk, 1 - chunk)
        total -= float(np.log(np.clip(of_target, MIN_PROBABILITY, 1.0)).sum())
    return total / targets.size
