"""Temperature scaling: the one number that logits are divided by, so that probabilities are true.

"On Calibration of Modern Neural Networks" (Guo et al., 2017): the temperature minimizes the negative
log-likelihood of validation images. It changes neither the order of an image's labels nor, in a multi-label
data set, which labels have a probability of at least 0.5.

The likelihood is a convex function of the inverse temperature b. Its first and second derivative at a few
values of b are sums over the images, which add up over batches, devices, workers and folds; the minimum
follows from the sums of all images. One pass over the images is enough.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Temperatures from 16 to 1/16.
INVERSE_TEMPERATURES = 2.0 ** (np.arange(-8, 9) / 2)
_VALUES = len(INVERSE_TEMPERATURES)
# The first and the second derivatives, the margins and the number of decisions.
TEMPERATURE_SUMS = 2 * _VALUES + 2
_FOLDS = 10
_BISECTIONS = 50
_SMALLEST = float(np.finfo(np.float32).tiny)
_CHUNK_LOGITS = 2**20


def fit_temperature(sums: NDArray[np.float64]) -> float:
    """Returns the temperature that minimizes the negative log-likelihood, to four significant digits.

    One more mistake than there was is assumed, spread evenly over the decisions (Laplace's rule, as in
    Platt's scaling): without a mistake, the likelihood would grow with the probabilities without end.

    Args:
        sums: [TEMPERATURE_SUMS] of all images, as the rows of ``temperature_sums``.

    Returns:
        1/16 to 16; 1 if the sums are not finite or all logits are equal.
    """
    slopes, curvatures = sums[:_VALUES], sums[_VALUES : 2 * _VALUES]
    margin, decisions = sums[2 * _VALUES :]
    slopes = slopes + margin / (decisions + 2)
    if not np.isfinite(slopes).all() or not curvatures.any():
        return 1.0
    # The slope increases with the inverse temperature, and is 0 at the minimum.
    after = int(np.searchsorted(slopes > 0, True))
    if after in (0, _VALUES):
        return float(1 / INVERSE_TEMPERATURES[min(after, _VALUES - 1)])
    low, high = INVERSE_TEMPERATURES[after - 1 : after + 1]
    begin, end = slopes[after - 1 : after + 1]
    rise, fall = curvatures[after - 1 : after + 1] * (high - low)

    def slope(x: float) -> float:
        """Returns the cubic through the slopes and curvatures at both values, 0 <= x <= 1."""
        return float(
            begin * (1 + 2 * x) * (1 - x) ** 2
            + rise * x * (1 - x) ** 2
            + end * x**2 * (3 - 2 * x)
            - fall * x**2 * (1 - x)
        )

    left, right = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        left, right = (left, middle) if slope(middle) > 0 else (middle, right)
    # Rounded, so that the model does not depend on the order in which a device adds numbers.
    return float(f"{1 / (low + left * (high - low)):.4g}")


def temperature_sums(logits: NDArray[np.floating[Any]], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Returns what ``fit_temperature`` needs, float64 [examples, TEMPERATURE_SUMS], for its sum over images.

    Args:
        logits: [examples, N].
        targets: int [examples], the true classes, 0..N-1; or bool [examples, N], whether the image has the
            label.
    """
    one_example = _label_set_sums if targets.ndim == 2 else _class_sums
    parts = [one_example(logits[rows].astype(np.float64), targets[rows]) for rows in _chunks(logits)]
    return np.concatenate(parts)


def logits_of(
    probabilities: NDArray[np.floating[Any]], temperature: float, *, multi_label: bool
) -> NDArray[np.float64]:
    """Returns the logits, up to a constant for each image, from probabilities at a temperature."""
    clipped = np.clip(probabilities.astype(np.float64), _SMALLEST, 1)
    logits = np.log(clipped)
    if multi_label:
        # The largest float32 below 1.
        logits -= np.log1p(-np.minimum(clipped, 1 - 2.0**-24))
    return logits * temperature


def probabilities_of(logits: NDArray[np.float64], temperature: float, *, multi_label: bool) -> NDArray[Any]:
    """Returns the probabilities of logits at a temperature: softmax, or sigmoid with ``multi_label``."""
    scaled = logits / temperature
    return _sigmoid(scaled) if multi_label else _softmax(scaled)


def cross_fitted_probabilities(logits: NDArray[np.float64], targets: NDArray[Any]) -> NDArray[Any]:
    """Returns each image's probabilities at a temperature that was fitted without the image.

    They show how true the probabilities of other images are, although the temperature was fitted on these:
    every tenth image is left out in turn. A single image gets temperature 1.

    Args:
        logits: [examples, N].
        targets: As in ``temperature_sums``.
    """
    sums = temperature_sums(logits, targets)
    probabilities = np.empty(logits.shape)
    for fold in range(_FOLDS):
        left_out = np.arange(len(logits)) % _FOLDS == fold
        if left_out.any():
            temperature = fit_temperature(sums[~left_out].sum(axis=0))
            probabilities[left_out] = probabilities_of(
                logits[left_out], temperature, multi_label=targets.ndim == 2
            )
    return probabilities


def _class_sums(logits: NDArray[np.float64], classes: NDArray[Any]) -> NDArray[np.float64]:
    rows = np.arange(len(logits))
    logits = logits - logits.max(axis=1, keepdims=True)
    true = logits[rows, classes]
    slopes, curvatures = [], []
    for inverse in INVERSE_TEMPERATURES:
        probabilities = _softmax(logits * inverse)
        mean = (probabilities * logits).sum(axis=1)
        slopes.append(mean - true)
        curvatures.append((probabilities * (logits - mean[:, None]) ** 2).sum(axis=1))
    others = logits.copy()
    others[rows, classes] = -np.inf
    # A mistake would be the most probable other class.
    margin = true - others.max(axis=1)
    return np.stack([*slopes, *curvatures, margin, np.ones(len(logits))], axis=1)


def _label_set_sums(logits: NDArray[np.float64], has_label: NDArray[Any]) -> NDArray[np.float64]:
    slopes, curvatures = [], []
    for inverse in INVERSE_TEMPERATURES:
        probabilities = _sigmoid(logits * inverse)
        slopes.append((logits * (probabilities - has_label)).sum(axis=1))
        curvatures.append((logits**2 * probabilities * (1 - probabilities)).sum(axis=1))
    margin = np.where(has_label, logits, -logits).sum(axis=1)
    return np.stack([*slopes, *curvatures, margin, np.full(len(logits), logits.shape[1])], axis=1)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((1 + np.tanh(logits / 2)) / 2)


def _chunks(logits: NDArray[Any]) -> Iterator[slice]:
    rows = max(1, _CHUNK_LOGITS // max(1, logits.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(logits), rows))
