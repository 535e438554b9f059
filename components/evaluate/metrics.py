"""Metrics of a model's predictions; NumPy only.

``labels`` are always classes 0..N-1 (the reader has shifted them from 1..N), ``probabilities`` is
[examples, N], and ties go to the lowest class.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError

# A probability of exactly 0 for the true class would make the mean loss infinite.
MIN_PROBABILITY = 1e-7
TOP_K = 5
# Probabilities per chunk: intermediate results take a few megabytes.
_CHUNK_PROBABILITIES = 2**20


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class; None where the fraction is 0/0.

    Attributes:
        precision: Fraction of the images predicted as this class that are of it; None if never predicted.
        recall: Fraction of the images of this class that are predicted as it; None without such images.
        f1: 2 TP / (2 TP + FP + FN); None if the class is neither in the data nor predicted.
        support: Number of images of this class.
        predicted: Number of images predicted as this class.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int


@dataclass(frozen=True)
class Metrics:
    """The metrics of an evaluation: Python numbers except for the confusion matrix.

    Attributes:
        examples: Number of images.
        top_1_accuracy: Fraction of images whose most probable class is the true one.
        top_5_accuracy: Fraction of images whose true class is among the min(5, N) most probable ones.
        loss: Mean cross-entropy in nats; a probability below 1e-7 counts as 1e-7.
        macro_precision: Mean of the classes' defined precisions; None if none is defined.
        macro_recall: Mean of the classes' defined recalls; None if none is defined.
        macro_f1: Mean of the classes' defined F1; None if none is defined.
        per_class: The metrics of each class.
        confusion: The nonzero cells of the confusion matrix, sorted, int64 [cells, 3]: true class, predicted
            class, images. There are at most as many as images, while the full matrix of 5,000 classes has 25
            million cells. Ignored by ``==``.
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
        """Number of images predicted as another class."""
        true, predicted, count = self.confusion.T
        return int(count[true != predicted].sum())

    def confusion_matrix(self) -> NDArray[np.int64]:
        """Returns the full matrix, int64 [N, N]: number of images by ``[true, predicted]``."""
        classes = len(self.per_class)
        matrix = np.zeros((classes, classes), np.int64)
        true, predicted, count = self.confusion.T
        matrix[true, predicted] = count
        return matrix

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as JSON values."""
        return {**dataclasses.asdict(self), "confusion": self.confusion.tolist()}


def compute_metrics(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> Metrics:
    """Computes the metrics of a model's predictions.

    Args:
        labels: [examples], the true classes, 0..N-1.
        probabilities: [examples, N].

    Raises:
        InvalidDataError: if there are no examples, or a probability is NaN or infinite.
    """
    check_probabilities(probabilities)
    examples, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    true_probability = probabilities[np.arange(examples), labels]
    # int64, because labels of a small integer type would overflow.
    cells, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
    loss = -np.log(np.clip(true_probability.astype(np.float64), MIN_PROBABILITY, 1.0))
    counts_of_classes = [
        np.bincount(values, minlength=classes).tolist()
        for values in (labels[labels == predicted], labels, predicted)
    ]
    per_class = tuple(ClassMetrics(**class_counts(*cell)) for cell in zip(*counts_of_classes, strict=True))
    return Metrics(
        examples=examples,
        top_1_accuracy=float(np.mean(predicted == labels)),
        top_5_accuracy=float(np.mean(top_k_correct(labels, probabilities, TOP_K))),
        loss=float(np.mean(loss)),
        macro_precision=mean_of_defined(metrics.precision for metrics in per_class),
        macro_recall=mean_of_defined(metrics.recall for metrics in per_class),
        macro_f1=mean_of_defined(metrics.f1 for metrics in per_class),
        per_class=per_class,
        confusion=np.stack([cells // classes, cells % classes, counts], axis=1),
    )


def most_confused_pairs(metrics: Metrics, count: int) -> list[list[int]]:
    """Returns the largest nonzero off-diagonal cells of the confusion matrix, as in ``confusion``.

    The largest are first. Equal numbers are ordered by the true class, then by the predicted one.
    """
    confusion = metrics.confusion
    off_diagonal = confusion[confusion[:, 0] != confusion[:, 1]]
    largest: list[list[int]] = off_diagonal[np.argsort(-off_diagonal[:, 2], kind="stable")[:count]].tolist()
    return largest


def check_probabilities(probabilities: NDArray[np.floating[Any]]) -> None:
    """Checks that there are probabilities and that all are finite.

    Args:
        probabilities: [examples, N].

    Raises:
        InvalidDataError: if there are no examples, or a probability is NaN or infinite.
    """
    if not len(probabilities):
        raise InvalidDataError(
            "there are no images to evaluate", remedy="evaluate on a split with at least one image"
        )
    finite = np.concatenate(
        [np.isfinite(probabilities[rows]).all(axis=1) for rows in row_chunks(probabilities)]
    )
    if not finite.all():
        raise InvalidDataError(
            f"the model's output is NaN or infinite for "
            f"{np.count_nonzero(~finite):,} of {len(finite):,} images",
            where=f"first for image {int(np.argmin(finite))} of the evaluation, counted from 0",
            remedy="the training diverged: train again with a lower initial_learning_rate",
        )


def top_k_correct(truth: NDArray[Any], probabilities: NDArray[np.floating[Any]], k: int) -> NDArray[np.bool_]:
    """Returns bool [examples]: whether one of the ``k`` most probable classes is true.

    Args:
        truth: int [examples], the true classes; or bool [examples, N], whether the image has the label.
        probabilities: [examples, N].
        k: Number of classes.
    """
    correct = np.empty(len(truth), bool)
    classes = np.arange(probabilities.shape[1])
    for rows in row_chunks(probabilities):
        chunk, true = probabilities[rows], truth[rows]
        # Of several labels, the most probable one.
        best = np.where(true, chunk, -1).argmax(axis=1) if true.ndim == 2 else true.astype(np.int64)
        probability = np.take_along_axis(chunk, best[:, None], axis=1)
        before = (chunk > probability) | ((chunk == probability) & (classes < best[:, None]))
        correct[rows] = before.sum(axis=1) < k
        if true.ndim == 2:
            correct[rows] &= true.any(axis=1)
    return correct


def row_chunks(probabilities: NDArray[np.floating[Any]]) -> Iterator[slice]:
    """Yields slices of rows with about a million probabilities each."""
    examples, classes = probabilities.shape
    rows = max(1, _CHUNK_PROBABILITIES // max(1, classes))
    return (slice(start, start + rows) for start in range(0, examples, rows))


def class_counts(hits: int, support: int, predicted: int) -> dict[str, Any]:
    """Returns the fields of ``ClassMetrics`` for the numbers of hits, images and predictions of a class."""
    return {
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        # support + predicted = 2 TP + FP + FN.
        "f1": 2 * hits / (support + predicted) if support + predicted else None,
        "support": support,
        "predicted": predicted,
    }


def mean_of_defined(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None if all are."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
