"""How far a model's probabilities are what they say: of the answers given 0.8, are 80 % right?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# As in "On Calibration of Modern Neural Networks" (Guo et al., 2017), whose figures readers know.
BINS = 15


@dataclass(frozen=True)
class CalibrationBin:
    """The answers whose probability is above ``lower`` and at most ``upper``.

    Attributes:
        lower: 0..1.
        upper: 0..1.
        examples: How many answers there are.
        confidence: Their mean probability; None if there are none.
        accuracy: The share of them that is right; None if there are none.
    """

    lower: float
    upper: float
    examples: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """The calibration of one evaluation.

    Attributes:
        expected_calibration_error: Mean distance between confidence and accuracy of the bins, weighted by
            their answers; 0 (perfect) to 1.
        bins: Of equal width, from 0 to 1.
    """

    expected_calibration_error: float
    bins: tuple[CalibrationBin, ...]


def measure_calibration(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], *, bins: int = BINS
) -> Calibration:
    """Measures the calibration of the most probable class of every example.

    Args:
        labels: [examples], the true classes, 0..N-1; at least one.
        probabilities: [examples, N], finite.
        bins: How many.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = np.clip(probabilities.max(axis=1).astype(np.float64), 0, 1)
    right = predicted == labels
    # A bin holds its upper bound; the lowest holds 0 too.
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts, confidences, hits = (
        np.bincount(place, weights=weights, minlength=bins) for weights in (None, confidence, right)
    )
    made = tuple(
        CalibrationBin(
            lower=number / bins,
            upper=(number + 1) / bins,
            examples=int(count),
            confidence=float(sum_of_confidences / count) if count else None,
            accuracy=float(hit / count) if count else None,
        )
        for number, (count, sum_of_confidences, hit) in enumerate(zip(counts, confidences, hits, strict=True))
    )
    return Calibration(float(np.abs(confidences - hits).sum() / len(labels)), made)
