"""Calibration: of the predictions with a probability of 0.8, are 80% correct?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# As in the well-known figures of "On Calibration of Modern Neural Networks" (Guo et al., 2017).
BINS = 15


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions with a probability above ``lower`` and up to ``upper``.

    Attributes:
        lower: 0..1.
        upper: 0..1.
        examples: Number of predictions.
        confidence: Their mean probability; None if there are none.
        accuracy: The fraction that is correct; None if there are none.
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
        expected_calibration_error: Mean difference between confidence and accuracy of the bins, weighted by
            their number of predictions; 0 (perfect) to 1.
        bins: Bins of equal width, from 0 to 1.
    """

    expected_calibration_error: float
    bins: tuple[CalibrationBin, ...]


def compute_calibration(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], *, bins: int = BINS
) -> Calibration:
    """Computes the calibration of the most probable class of each example.

    Args:
        labels: [examples], the true classes, 0..N-1; at least one.
        probabilities: [examples, N], finite.
        bins: Number of bins.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = np.clip(probabilities.max(axis=1).astype(np.float64), 0, 1)
    correct = predicted == labels
    # A bin includes its upper bound; the lowest bin also includes 0.
    bin_index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts, confidences, hits = (
        np.bincount(bin_index, weights=weights, minlength=bins) for weights in (None, confidence, correct)
    )
    computed = tuple(
        CalibrationBin(
            lower=number / bins,
            upper=(number + 1) / bins,
            examples=int(count),
            confidence=float(total_confidence / count) if count else None,
            accuracy=float(hit / count) if count else None,
        )
        for number, (count, total_confidence, hit) in enumerate(zip(counts, confidences, hits, strict=True))
    )
    return Calibration(float(np.abs(confidences - hits).sum() / len(labels)), computed)
