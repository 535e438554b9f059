"""Precision and recall at every threshold of the probability; NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The page has the counts of this many classes, those with the most images.
_MAX_CLASSES = 200
STEPS = 50
_CHUNK = 2**20


@dataclass(frozen=True)
class ThresholdCounts:
    """What is predicted at the thresholds 0, 1/50, 2/50, ..., 1.

    Attributes:
        name: The class; empty for all of them.
        support: The number of images of the class; for all classes, of images, or of labels of images.
        predicted: For each threshold: the number of predictions with at least that probability.
        hits: For each threshold: how many of them are correct.
    """

    name: str
    support: int
    predicted: tuple[int, ...]
    hits: tuple[int, ...]

    def precision(self, step: int) -> float | None:
        """Returns the fraction of the predictions that are correct; None if there is none."""
        return self.hits[step] / self.predicted[step] if self.predicted[step] else None

    def recall(self, step: int) -> float | None:
        """Returns the fraction of the images of the class that are predicted as it; None without any."""
        return self.hits[step] / self.support if self.support else None


def count_thresholds(
    classes: NDArray[Any], probabilities: NDArray[np.floating[Any]], labels: Sequence[str]
) -> list[ThresholdCounts]:
    """Counts the predictions at every threshold, of all classes together and of each class.

    For all classes of single-label data, an image's prediction is its most probable class, and counts if its
    probability reaches the threshold. A single class, and each label of multi-label data, is predicted for
    every image for which its probability reaches the threshold.

    Args:
        classes: int [examples], the true classes; or bool [examples, N], whether the image has the label.
        probabilities: [examples, N].
        labels: The N label names.

    Returns:
        The counts of all classes, then those of up to 200 classes with the most images, in label order.
    """
    multi_label = classes.ndim == 2
    if multi_label:
        everything = _count("", classes.ravel(), probabilities.ravel())
        support = classes.sum(axis=0)
    else:
        predicted = probabilities.argmax(axis=1)
        top = probabilities[np.arange(len(classes)), predicted]
        everything = _count("", predicted == classes, top, support=len(classes))
        support = np.bincount(classes, minlength=len(labels))
    shown = np.sort(np.argsort(-support, kind="stable")[:_MAX_CLASSES])
    return [
        everything,
        *(
            _count(
                labels[index],
                classes[:, index] if multi_label else classes == index,
                probabilities[:, index],
            )
            for index in shown.tolist()
        ),
    ]


def _count(
    name: str, is_hit: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]], support: int | None = None
) -> ThresholdCounts:
    thresholds = (np.arange(STEPS + 1) / STEPS).astype(probabilities.dtype)
    # [is_hit, number of thresholds reached], in parts: multi-label data may have billions of probabilities.
    counts = np.zeros((2, STEPS + 2), np.int64)
    for start in range(0, len(probabilities), _CHUNK):
        reached = np.searchsorted(thresholds, probabilities[start : start + _CHUNK], side="right")
        hits = is_hit[start : start + _CHUNK]
        for row, part in enumerate((reached[~hits], reached[hits])):
            counts[row] += np.bincount(part, minlength=STEPS + 2)
    # Threshold k is reached by those that reach more than k thresholds.
    misses_at, hits_at = counts[:, :0:-1].cumsum(axis=1)[:, ::-1]
    return ThresholdCounts(
        name,
        int(is_hit.sum()) if support is None else support,
        tuple((misses_at + hits_at).tolist()),
        tuple(hits_at.tolist()),
    )
