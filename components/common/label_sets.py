"""The set of labels that holds an image's true label with a stated probability (split conformal prediction).

An image's margin for a label is the label's logit minus the largest other one. A label is in the set if its
margin is at least a threshold: the one that holds for the true labels of the stated share of the validation
images. For other images of the same kind, whatever the model, the set then holds the true label with at least
that probability, on average over images ("Algorithmic Learning in a Random World", Vovk, Gammerman and
Shafer, 2005). In terms of the probabilities, a label is in the set if its probability is at least a constant
times the largest other one.

In a multi-label data set, the score of a label is its own logit, and each label has its own threshold: an
image's set holds each of its labels with the stated probability.

Scores are counted in narrow intervals, so that their distribution adds up over batches, devices and workers.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTERVALS = 1024
# Of the inverse hyperbolic sine of a score: scores from -1490 to 1490.
_LIMIT = 8.0
# Finite, because JSON has no infinity.
_LOWEST = -1e9
# A float32 can hold the ratio.
_MAX_LOG_RATIO = 80.0
INTERVALS_PER_UNIT = INTERVALS / (2 * _LIMIT)


def lowest_scores(histograms: NDArray[np.float64], coverage: float) -> tuple[float, ...]:
    """Returns for each histogram the score that the stated share of its scores reaches.

    It is the lower end of an interval, so that slightly more than the share reach it.

    Args:
        histograms: [n, INTERVALS], the number of scores in each interval.
        coverage: The share, above 0 and below 1.

    Returns:
        A score below all others where there are too few scores to say: less than coverage / (1 - coverage).
    """
    return tuple(_lowest_score(histogram, coverage) for histogram in histograms)


def _lowest_score(histogram: NDArray[np.float64], coverage: float) -> float:
    count = int(histogram.sum())
    # As if the new image were one more: its score is equally likely to have any rank.
    rank = math.ceil((count + 1) * coverage - 1e-9)
    if rank > count:
        return _LOWEST
    at_least = histogram[::-1].cumsum()
    interval = INTERVALS - 1 - int(np.searchsorted(at_least, rank))
    # The first interval also has all lower scores.
    return math.sinh(interval / INTERVALS_PER_UNIT - _LIMIT) if interval else _LOWEST


def interval_of(scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Returns the interval of each score."""
    intervals = np.floor((np.arcsinh(scores) + _LIMIT) * INTERVALS_PER_UNIT)
    return np.asarray(np.clip(intervals, 0, INTERVALS - 1).astype(np.int64))


def set_thresholds(scores: tuple[float, ...], temperature: float, *, multi_label: bool) -> tuple[float, ...]:
    """Returns the thresholds of the probabilities for lowest scores.

    They are the smallest ratios of a label's probability to the largest other one, and with ``multi_label``
    the smallest probability of each label; 0 if every label is.
    """
    if multi_label:
        return tuple((1 + math.tanh(score / temperature / 2)) / 2 for score in scores)
    return tuple(math.exp(min(score / temperature, _MAX_LOG_RATIO)) for score in scores)


def label_sets(
    probabilities: NDArray[np.floating[Any]], thresholds: tuple[float, ...], *, multi_label: bool
) -> NDArray[np.bool_]:
    """Returns whether each label is in the set of each image, as the signature ``label_sets`` does.

    Args:
        probabilities: [examples, N].
        thresholds: From ``set_thresholds``.
        multi_label: Whether each label has its own threshold.
    """
    limits = np.asarray(thresholds, probabilities.dtype)
    if multi_label:
        return np.asarray(probabilities >= limits)
    largest = np.partition(probabilities, -2, axis=1)[:, -2:]
    is_first = np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]
    others = np.where(is_first, largest[:, :1], largest[:, 1:])
    return np.asarray(probabilities >= limits * others)
