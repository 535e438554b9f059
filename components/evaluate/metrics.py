"""What is measured on a model's predictions; NumPy only.

Everywhere ``labels`` holds classes 0..N-1 (the shift from 1..N happened where the records were
read), ``probabilities`` is [examples, N], and a tie goes to the lowest class.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.errors import InternalError, InvalidDataError

# A probability of exactly 0 for the true class would make the mean loss infinite.
SMALLEST_PROBABILITY = 1e-7
_TOP_K = 5


@dataclass(frozen=True)
class ClassMetrics:
    """How well one class is told from the others; None where the fraction is 0/0.

    Attributes:
        precision: Of the images predicted as this class, the share that is; None if never predicted.
        recall: Of the images of this class, the share predicted so; None if there is no such image.
        f1: 2 TP / (2 TP + FP + FN); None if the class is neither in the data nor predicted.
        support: How many images are of this class.
        predicted: How many images were predicted as this class.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


@dataclass(frozen=True)
class Metrics:
    """The measurements of one evaluation, in plain Python numbers.

    Attributes:
        examples: How many images were evaluated.
        top_1_accuracy: The share whose most probable class is the true one.
        top_5_accuracy: The share whose true class is among the min(5, N) most probable ones.
        loss: Mean cross-entropy in nats; a probability below 1e-7 counts as 1e-7.
        macro_precision: Mean of the classes' precisions that are defined; None if none is.
        macro_recall: Likewise for recall.
        macro_f1: Likewise for F1.
        per_class: By class.
        confusion_matrix: [N][N]: ``confusion_matrix[true][predicted]`` images.
    """

    examples: int
    top_1_accuracy: float
    top_5_accuracy: float
    loss: float
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    per_class: tuple[ClassMetrics, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the measurements as JSON values: numbers, None, lists and objects only."""
        return {
            **dataclasses.asdict(self),
            "per_class": [dataclasses.asdict(one) for one in self.per_class],
            "confusion_matrix": [list(row) for row in self.confusion_matrix],
        }


@dataclass(frozen=True)
class WrongPrediction:
    """An example whose most probable class is not the true one.

    Attributes:
        index: Of the example, from 0, in the order of the arrays.
        true_class: 0..N-1.
        predicted_class: 0..N-1.
        probability: That the model gave to the predicted class.
    """

    index: int
    true_class: int
    predicted_class: int
    probability: float


@dataclass(frozen=True)
class ConfusedPair:
    """How many images of one class were predicted as another."""

    true_class: int
    predicted_class: int
    count: int


def compute_metrics(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> Metrics:
    """Measures a model's predictions.

    Args:
        labels: [examples], the true classes, 0..N-1.
        probabilities: [examples, N].

    Raises:
        InvalidDataError: if there is no example, a probability is NaN or infinite, or a label is
            not one of the N classes.
        InternalError: if the shapes do not fit each other.
    """
    _check(labels, probabilities)
    examples, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    of_true_class = probabilities[np.arange(examples), labels]
    # In 64 bits: labels of a small type would overflow.
    cells = labels.astype(np.int64) * classes + predicted
    confusion = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    loss = -np.log(np.clip(of_true_class.astype(np.float64), SMALLEST_PROBABILITY, 1.0))
    per_class = _per_class(confusion)
    return Metrics(
        examples=examples,
        top_1_accuracy=float(np.mean(predicted == labels)),
        top_5_accuracy=float(np.mean(_rank_of_true_class(labels, probabilities) < min(_TOP_K, classes))),
        loss=float(np.mean(loss)),
        macro_precision=_mean_of_defined(one.precision for one in per_class),
        macro_recall=_mean_of_defined(one.recall for one in per_class),
        macro_f1=_mean_of_defined(one.f1 for one in per_class),
        per_class=per_class,
        confusion_matrix=tuple(tuple(row) for row in confusion.tolist()),
    )


def worst_mistakes(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], count: int
) -> tuple[WrongPrediction, ...]:
    """Returns the wrong predictions of which the model was surest, the surest first.

    Equal probabilities keep the order of the examples.

    Args:
        labels: [examples], the true classes, 0..N-1.
        probabilities: [examples, N].
        count: How many at most.

    Raises:
        InvalidDataError: as ``compute_metrics``.
        InternalError: as ``compute_metrics``.
    """
    _check(labels, probabilities)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:count]
    return tuple(
        WrongPrediction(
            index=int(index),
            true_class=int(labels[index]),
            predicted_class=int(predicted[index]),
            probability=float(probabilities[index, predicted[index]]),
        )
        for index in surest
    )


def most_confused_pairs(metrics: Metrics, count: int) -> tuple[ConfusedPair, ...]:
    """Returns the largest numbers off the confusion matrix's diagonal, largest first, without zeros.

    Equal numbers are in the order of the true class, then of the predicted one.
    """
    matrix = np.array(metrics.confusion_matrix)
    np.fill_diagonal(matrix, 0)
    true, predicted = np.nonzero(matrix)
    numbers = matrix[true, predicted]
    largest = np.argsort(-numbers, kind="stable")[:count]
    return tuple(ConfusedPair(int(true[i]), int(predicted[i]), int(numbers[i])) for i in largest)


def _check(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> None:
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise InternalError(
            f"labels of shape {labels.shape} and probabilities of shape {probabilities.shape}; "
            "they must be [examples] and [examples, classes]"
        )
    if not len(labels):
        raise InvalidDataError(
            "there is no image to evaluate", remedy="give the evaluation a split with at least one image"
        )
    classes = probabilities.shape[1]
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise InvalidDataError(
            f"the model's output is NaN or infinite for "
            f"{np.count_nonzero(~finite):,} of {len(finite):,} images",
            where=f"first for image {int(np.argmin(finite))} of the evaluation, counted from 0",
            remedy="the training diverged: train again with a lower learning_rate",
        )
    allowed = (labels >= 0) & (labels < classes)
    if not allowed.all():
        first = int(np.argmin(allowed))
        raise InvalidDataError(
            f"class {int(labels[first])} is not among the model's {classes} classes, 0..{classes - 1}",
            where=f"image {first} of the evaluation, counted from 0",
            remedy="evaluate on data with the labels that the model was trained on",
        )


def _rank_of_true_class(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> NDArray[np.integer[Any]]:
    """Returns how many classes come before the true one: more probable, or as probable and lower."""
    of_true_class = probabilities[np.arange(len(labels)), labels][:, None]
    lower = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    before = (probabilities > of_true_class) | ((probabilities == of_true_class) & lower)
    ranks: NDArray[np.integer[Any]] = before.sum(axis=1)
    return ranks


def _per_class(confusion: NDArray[np.integer[Any]]) -> tuple[ClassMetrics, ...]:
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return tuple(
        ClassMetrics(
            precision=hit / said if said else None,
            recall=hit / there if there else None,
            # 2 TP + FP + FN, since FP = predicted - TP and FN = support - TP.
            f1=2 * hit / (there + said) if there + said else None,
            support=there,
            predicted=said,
        )
        for hit, there, said in zip(hits.tolist(), support.tolist(), predicted.tolist(), strict=True)
    )


def _mean_of_defined(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
