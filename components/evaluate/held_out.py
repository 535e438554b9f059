"""The accuracy on a split as an estimate of the accuracy on other images, with its confidence interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.label_sets import label_sets

# The 97.5th percentile of the normal distribution: 95% of the intervals hold the true accuracy.
_DEVIATIONS = 1.959964


@dataclass(frozen=True)
class Interval:
    """The bounds of a 95% confidence interval."""

    lower: float
    upper: float


@dataclass(frozen=True)
class SetMetrics:
    """How the label sets of the signature ``label_sets`` do on a split.

    Attributes:
        stated: The probability with which a set should hold the true label.
        coverage: The fraction of true labels that are in their image's set.
        labels: The mean number of labels in a set.
    """

    stated: float
    coverage: float
    labels: float


def compute_set_metrics(
    targets: NDArray[Any], probabilities: NDArray[np.floating[Any]], provenance: Mapping[str, Any]
) -> SetMetrics:
    """Computes the metrics of a model's label sets; at least one image has a label.

    Args:
        targets: int [examples], the true classes; or bool [examples, N], whether the image has the label.
        probabilities: [examples, N].
        provenance: The model's.
    """
    settings, multi_label = provenance["label_sets"], targets.ndim == 2
    in_set = label_sets(probabilities, tuple(settings["thresholds"]), multi_label=multi_label)
    held = in_set[targets] if multi_label else in_set[np.arange(len(targets)), targets]
    return SetMetrics(settings["coverage"], float(held.mean()), float(in_set.sum(axis=1).mean()))


@dataclass(frozen=True)
class HeldOutMetrics:
    """The figures on the test split, which neither the training nor the choice of the best step has used.

    Attributes:
        examples: Number of images.
        top_1_accuracy: As in ``Metrics``.
        top_1_accuracy_interval: Its 95% confidence interval.
        loss: As in ``Metrics``.
        expected_calibration_error: As in ``Calibration``.
        label_sets: The metrics of the label sets.
    """

    examples: int
    top_1_accuracy: float
    top_1_accuracy_interval: Interval
    loss: float
    expected_calibration_error: float
    label_sets: SetMetrics


def accuracy_interval(accuracy: float, examples: int) -> Interval:
    """Returns the Wilson score interval of a fraction of examples; 0 to 1 without examples.

    Unlike accuracy plus and minus a deviation, it is not empty at 0 or 1 and stays within them (Wilson,
    "Probable inference, the law of succession, and statistical inference", 1927). It assumes independent
    images: it is too narrow for pictures of few persons, places or bursts.
    """
    if not examples:
        return Interval(0.0, 1.0)
    square = _DEVIATIONS**2 / examples
    center = (accuracy + square / 2) / (1 + square)
    deviation = (
        _DEVIATIONS / (1 + square) * math.sqrt(accuracy * (1 - accuracy) / examples + square / examples / 4)
    )
    return Interval(max(0.0, center - deviation), min(1.0, center + deviation))
