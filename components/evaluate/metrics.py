"""What is measured on a model's predictions; NumPy only.

Everywhere ``labels`` holds classes 0..N-1 (the shift from 1..N happened where the records were
read), ``probabilities`` is [examples, N], and a tie goes to the lowest class.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InternalError, InvalidDataError

# A probability of exactly 0 for the true class would make the mean loss infinite.
SMALLEST_PROBABILITY = 1e-7
_TOP_K = 5
# Probabilities that are looked at together: intermediate results stay at some megabytes.
_CHUNK_PROBABILITIES = 2**20


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
    """The measurements of one evaluation, in plain Python numbers but for the confusion matrix.

    Attributes:
        examples: How many images were evaluated.
        top_1_accuracy: The share whose most probable class is the true one.
        top_5_accuracy: The share whose true class is among the min(5, N) most probable ones.
        loss: Mean cross-entropy in nats; a probability below 1e-7 counts as 1e-7.
        macro_precision: Mean of the classes' precisions that are defined; None if none is.
        macro_recall: Likewise for recall.
        macro_f1: Likewise for F1.
        per_class: By class.
        confusion: The cells of the confusion matrix that are not 0, int64 [cells, 3]: true class,
            predicted class, images; sorted. There are no more of them than images, while the whole matrix
            of 5,000 classes has 25 million cells. Not compared.
    """

    examples: int
    top_1_accuracy: float
    top_5_accuracy: float
    loss: float
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    per_class: tuple[ClassMetrics, ...]
    confusion: NDArray[np.int64] = field(compare=False)

    @property
    def wrong(self) -> int:
        """How many images were predicted as another class."""
        true, predicted, count = self.confusion.T
        return int(count[true != predicted].sum())

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Returns the whole matrix, int64 [N, N]: ``[true, predicted]`` images."""
        classes = len(self.per_class)
        matrix = np.zeros((classes, classes), np.int64)
        true, predicted, count = self.confusion.T
        matrix[true, predicted] = count
        return matrix

    def to_json(self) -> dict[str, Any]:
        """Returns the measurements as JSON values: numbers, None, lists and objects only."""
        return {
            **dataclasses.asdict(self),
            "per_class": [dataclasses.asdict(one) for one in self.per_class],
            "confusion": self.confusion.tolist(),
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
    cells, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
    loss = -np.log(np.clip(of_true_class.astype(np.float64), SMALLEST_PROBABILITY, 1.0))
    per_class = _per_class(labels, predicted, classes)
    return Metrics(
        examples=examples,
        top_1_accuracy=float(np.mean(predicted == labels)),
        top_5_accuracy=float(np.mean(_rank_of_true_class(labels, probabilities) < min(_TOP_K, classes))),
        loss=float(np.mean(loss)),
        macro_precision=mean_of_defined(one.precision for one in per_class),
        macro_recall=mean_of_defined(one.recall for one in per_class),
        macro_f1=mean_of_defined(one.f1 for one in per_class),
        per_class=per_class,
        confusion=np.stack([cells // classes, cells % classes, counts], axis=1),
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
    confusion = metrics.confusion
    off_diagonal = confusion[confusion[:, 0] != confusion[:, 1]]
    largest = off_diagonal[np.argsort(-off_diagonal[:, 2], kind="stable")[:count]]
    return tuple(ConfusedPair(*cell) for cell in largest.tolist())


def check_probabilities(probabilities: NDArray[np.floating[Any]]) -> None:
    """Makes sure that there are probabilities, and that all are numbers.

    Args:
        probabilities: [examples, N].

    Raises:
        InvalidDataError: if there is no example, or a probability is NaN or infinite.
    """
    if not len(probabilities):
        raise InvalidDataError(
            "there is no image to evaluate", remedy="give the evaluation a split with at least one image"
        )
    rows_of = row_chunks(probabilities)
    finite = np.concatenate([np.isfinite(probabilities[rows]).all(axis=1) for rows in rows_of])
    if not finite.all():
        raise InvalidDataError(
            f"the model's output is NaN or infinite for "
            f"{np.count_nonzero(~finite):,} of {len(finite):,} images",
            where=f"first for image {int(np.argmin(finite))} of the evaluation, counted from 0",
            remedy="the training diverged: train again with a lower learning_rate",
        )


def _check(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> None:
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise InternalError(
            f"labels of shape {labels.shape} and probabilities of shape {probabilities.shape}; "
            "they must be [examples] and [examples, classes]"
        )
    check_probabilities(probabilities)
    classes = probabilities.shape[1]
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
    ranks = np.empty(len(labels), np.int64)
    classes = np.arange(probabilities.shape[1])[None, :]
    for rows in row_chunks(probabilities):
        some, true = probabilities[rows], labels[rows, None]
        of_true_class = np.take_along_axis(some, true.astype(np.int64), axis=1)
        before = (some > of_true_class) | ((some == of_true_class) & (classes < true))
        ranks[rows] = before.sum(axis=1)
    return ranks


def row_chunks(probabilities: NDArray[np.floating[Any]]) -> Iterator[slice]:
    """Yields the rows in pieces of about a million probabilities."""
    examples, classes = probabilities.shape
    rows = max(1, _CHUNK_PROBABILITIES // max(1, classes))
    return (slice(start, start + rows) for start in range(0, examples, rows))


def _per_class(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> tuple[ClassMetrics, ...]:
    counts = [
        np.bincount(values, minlength=classes).tolist()
        for values in (labels[labels == predicted], labels, predicted)
    ]
    return tuple(
        ClassMetrics(
            precision=hit / said if said else None,
            recall=hit / there if there else None,
            # 2 TP + FP + FN, since FP = predicted - TP and FN = support - TP.
            f1=2 * hit / (there + said) if there + said else None,
            support=there,
            predicted=said,
        )
        for hit, there, said in zip(*counts, strict=True)
    )


def mean_of_defined(values: Iterable[float | None]) -> float | None:
    """Returns the mean of those values that are not None; None if all are."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
