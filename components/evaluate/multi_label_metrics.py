"""What is measured on a model's predictions where an image may have several labels, or none; NumPy only.

Everywhere ``targets`` is bool [examples, N], whether an image has a label, and ``probabilities`` is
[examples, N]. A label counts as predicted from a probability of 0.5 on.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.evaluate.metrics import (
    SMALLEST_PROBABILITY,
    ClassMetrics,
    check_probabilities,
    mean_of_defined,
    row_chunks,
)

THRESHOLD = 0.5
_TOP_K = 5


@dataclass(frozen=True)
class LabelMetrics(ClassMetrics):
    """How well one label is told: whether an image has it; None where the fraction is 0/0.

    Attributes:
        average_precision: Area under the curve of precision over recall, the sum of the precisions at each
            threshold weighted by the rise in recall, as scikit-learn defines it; a model that guesses gets
            the share of images that have the label. None if none has it.
    """

    average_precision: float | None


@dataclass(frozen=True)
class MultiLabelMetrics:
    """The measurements of one evaluation, in plain Python numbers.

    Attributes:
        examples: How many images were evaluated.
        without_label: How many of them have no label.
        top_1_accuracy: Of the images with a label, the share whose most probable label is one of theirs.
        top_5_accuracy: Likewise, the share that have one of theirs among the min(5, N) most probable.
        loss: Mean over images and labels of the binary cross-entropy, in nats; a probability below 1e-7
            counts as 1e-7.
        mean_average_precision: Mean of the labels' average precisions that are defined.
        f1: Of all decisions of all images and labels together (micro).
        exact_match: The share of images of which every label was decided rightly.
        macro_precision: Mean of the labels' precisions that are defined; None if none is.
        macro_recall: Likewise for recall.
        macro_f1: Likewise for F1.
        per_class: By label.
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
        """How many images have a label that was decided wrongly."""
        return self.examples - round(self.exact_match * self.examples)

    def to_json(self) -> dict[str, Any]:
        """Returns the measurements as JSON values: numbers, None, lists and objects only."""
        return {"multi_label": True, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class WrongDecision:
    """A label that an image has and was not predicted, or the other way round.

    Attributes:
        index: Of the example, from 0, in the order of the arrays.
        class_index: Of the label, 0..N-1.
        predicted: Whether it was predicted.
        probability: Of what was predicted: of the label, or of its absence.
    """

    index: int
    class_index: int
    predicted: bool
    probability: float


def compute_multi_label_metrics(
    targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]
) -> MultiLabelMetrics:
    """Measures a model's predictions.

    Raises:
        InvalidDataError: if no image has a label, or a probability is NaN or infinite.
    """
    check_probabilities(probabilities)
    labelled = targets.any(axis=1)
    if not labelled.any():
        raise InvalidDataError(
            "no image of the evaluation has a label", remedy="give the split images that have labels"
        )
    predicted = probabilities >= THRESHOLD
    per_class = tuple(
        _label_metrics(targets[:, one], predicted[:, one], probabilities[:, one])
        for one in range(targets.shape[1])
    )
    hits, decisions = int((targets & predicted).sum()), int(targets.sum() + predicted.sum())
    return MultiLabelMetrics(
        examples=len(targets),
        without_label=int((~labelled).sum()),
        top_1_accuracy=float(right_at_top(targets, probabilities, 1)[labelled].mean()),
        top_5_accuracy=float(right_at_top(targets, probabilities, _TOP_K)[labelled].mean()),
        loss=_cross_entropy(targets, probabilities),
        # An image has a label, so that neither is a division by 0.
        mean_average_precision=float(
            np.mean([one.average_precision for one in per_class if one.average_precision is not None])
        ),
        f1=2 * hits / decisions,
        exact_match=float((targets == predicted).all(axis=1).mean()),
        macro_precision=mean_of_defined(one.precision for one in per_class),
        macro_recall=mean_of_defined(one.recall for one in per_class),
        macro_f1=mean_of_defined(one.f1 for one in per_class),
        per_class=per_class,
    )


def right_at_top(
    targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]], count: int
) -> NDArray[np.bool_]:
    """Returns bool [examples]: whether one of the ``count`` most probable labels is one of the image's."""
    right = np.empty(len(targets), bool)
    for rows in row_chunks(probabilities):
        # A tie goes to the lowest class.
        top = np.argsort(-probabilities[rows], axis=1, kind="stable")[:, :count]
        right[rows] = np.take_along_axis(targets[rows], top, axis=1).any(axis=1)
    return right


def average_precision(there: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the average precision of one label; None if no image has it.

    Args:
        there: [examples], whether an image has the label.
        probabilities: [examples].
    """
    if not there.any():
        return None
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(there[order])
    # Equal probabilities are one threshold: what counts is where the last of them stands.
    last = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    precision, found = hits[last] / (last + 1), np.diff(hits[last], prepend=0)
    return float((precision * found).sum() / hits[-1])


def worst_decisions(
    targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]], count: int
) -> tuple[WrongDecision, ...]:
    """Returns the wrong decisions of which the model was surest, the surest first."""
    predicted = probabilities >= THRESHOLD
    images, classes = np.nonzero(predicted != targets)
    of_label = probabilities[images, classes].astype(np.float64)
    sure = np.where(predicted[images, classes], of_label, 1 - of_label)
    return tuple(
        WrongDecision(
            int(images[one]), int(classes[one]), bool(predicted[images[one], classes[one]]), float(sure[one])
        )
        for one in np.argsort(-sure, kind="stable")[:count]
    )


def names_of(labels: Sequence[str], there: NDArray[np.bool_]) -> str:
    """Returns the names of an image's labels in words."""
    return ", ".join(labels[int(one)] for one in np.flatnonzero(there)) or "no label"


def _label_metrics(
    there: NDArray[np.bool_], predicted: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]
) -> LabelMetrics:
    hits, support, said = (int(some.sum()) for some in (there & predicted, there, predicted))
    return LabelMetrics(
        precision=hits / said if said else None,
        recall=hits / support if support else None,
        f1=2 * hits / (support + said) if support + said else None,
        support=support,
        predicted=said,
        average_precision=average_precision(there, probabilities),
    )


def _cross_entropy(targets: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]) -> float:
    total = 0.0
    for rows in row_chunks(probabilities):
        some = probabilities[rows].astype(np.float64)
        of_target = np.where(targets[rows], some, 1 - some)
        total -= float(np.log(np.clip(of_target, SMALLEST_PROBABILITY, 1.0)).sum())
    return total / targets.size
