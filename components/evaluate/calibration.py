"""Calibration: of the predictions with a probability of 0.8, are 80% correct?

For a multi-label data set, every label of every image is a prediction: of the labels with a probability of
0.8, do 80% apply?
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.temperature import (
    cross_fitted_probabilities,
    logits_of,
    probabilities_of,
)

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


@dataclass(frozen=True)
class TemperatureScaling:
    """The calibration of a model without and with its temperature.

    Attributes:
        temperature: What the model divides the logits by.
        before: The calibration of the same model with temperature 1.
        cross_fitted: Whether the temperature was fitted on the same images, so that the calibration of the
            model is measured with temperatures fitted on nine tenths of them, each on the other tenth.
    """

    temperature: float
    before: Calibration
    cross_fitted: bool


def compute_scaled_calibration(
    targets: NDArray[Any], probabilities: NDArray[np.floating[Any]], temperature: float, *, cross_fit: bool
) -> tuple[Calibration, TemperatureScaling]:
    """Computes the calibration of a model whose temperature was fitted, and its calibration without that.

    Args:
        targets: As in ``compute_calibration``.
        probabilities: The model's, float [examples, N], finite.
        temperature: The model's.
        cross_fit: Whether the temperature was fitted on these images.
    """
    multi_label = targets.ndim == 2
    logits = logits_of(probabilities, temperature, multi_label=multi_label)
    before = probabilities_of(logits, 1.0, multi_label=multi_label)
    after = cross_fitted_probabilities(logits, targets) if cross_fit else probabilities
    return compute_calibration(targets, after), TemperatureScaling(
        temperature, compute_calibration(targets, before), cross_fit
    )


def compute_calibration(targets: NDArray[Any], probabilities: NDArray[np.floating[Any]]) -> Calibration:
    """Computes the calibration of the most probable class of each example, or of all labels.

    Args:
        targets: int [examples], the true classes, 0..N-1; or bool [examples, N], whether the image has the
            label. At least one example.
        probabilities: [examples, N], finite.
    """
    if targets.ndim == 2:
        confidence, correct = probabilities.ravel(), targets.ravel()
    else:
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    confidence = np.clip(confidence.astype(np.float64), 0, 1)
    # A bin includes its upper bound; the lowest bin also includes 0.
    bin_index = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts, confidences, hits = (
        np.bincount(bin_index, weights=weights, minlength=BINS) for weights in (None, confidence, correct)
    )
    computed = tuple(
        CalibrationBin(
            lower=number / BINS,
            upper=(number + 1) / BINS,
            examples=int(count),
            confidence=float(total_confidence / count) if count else None,
            accuracy=float(hit / count) if count else None,
        )
        for number, (count, total_confidence, hit) in enumerate(zip(counts, confidences, hits, strict=True))
    )
    return Calibration(float(np.abs(confidences - hits).sum() / len(confidence)), computed)
