"""Drift: whether the images that a server gets look to the model like those that it was evaluated on.

The sketch of the evaluation's embeddings, which is exported with the model, has 16 directions in the space
of embeddings. The server compares windows of 200 images with it. The distance is that between the window's
mean and the evaluation's, in units of standard deviations, over the 16 coordinates and their absolute values,
which change with the spread.

The directions are fitted on a third of the images. The distance's distribution without drift is calibrated
on the others, by resampling windows. A window's distance also depends on which images happened to be in the
evaluation. The evaluation is therefore resampled too, and each quantile of the distance is one that 99% of
the resampled evaluations stay below. So, as long as the served images are drawn as the evaluation's were, a
window has a p-value of at most p with a probability of at most p, except for a few percent of evaluations.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import must_be_readable
from imgpipe.components.common.provenance import DRIFT_NAME

# Images in a window.
WINDOW = 200
# A window with a p-value up to this counts as an alarm.
FALSE_ALARM_RATE = 0.01
# With fewer images there is no sketch; more than the maximum are not used.
MIN_IMAGES, MAX_IMAGES = 200, 600
_DIRECTIONS = 16
_EVALUATIONS, _CONFIDENCE = 200, 0.99
_WINDOWS = 10_000
# The p-values whose distances are stored; smaller ones count as the smallest.
_P_VALUES = np.geomspace(1, 1e-3, 61)


@dataclass(frozen=True)
class DriftSketch:
    """A sketch of embeddings, and the distances of windows without drift.

    Attributes:
        center: float32 [d], subtracted from embeddings.
        directions: float32 [d, k]: coordinates are ``(embeddings - center) @ directions``.
        mean: float64 [2k], the mean of the features of the evaluation's images.
        scale: float64 [2k], their standard deviations.
        distances: float64 [61], the distance for each p-value from 1 to 0.001.
    """

    center: NDArray[np.float32]
    directions: NDArray[np.float32]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    distances: NDArray[np.float64]

    def features(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the features of embeddings, in units of standard deviations: float64 [n, 2k]."""
        return (_features(embeddings, self.center, self.directions) - self.mean) / self.scale

    def test(self, features: NDArray[np.float64]) -> tuple[float, float]:
        """Returns the distance of a window's ``features`` and its p-value, at least 0.001."""
        distance = float(np.linalg.norm(features.mean(axis=0)))
        return distance, float(np.exp(np.interp(distance, self.distances, np.log(_P_VALUES))))

    def save(self, folder: Path) -> None:
        """Writes ``drift.npz``."""
        np.savez(folder / DRIFT_NAME, **vars(self))


def load_sketch(folder: Path) -> DriftSketch | None:
    """Loads the sketch of a model folder; None if it has none.

    Raises:
        MissingInputError: if it is damaged.
    """
    path = folder / DRIFT_NAME
    if not path.is_file():
        return None
    damage = (ValueError, EOFError, TypeError, KeyError)
    readable = must_be_readable(repr(str(path)), *damage, remedy="export the model again")
    with readable, np.load(path, allow_pickle=False) as arrays:
        return DriftSketch(**arrays)


def make_sketch(embeddings: NDArray[np.float32], seed: int = 0) -> DriftSketch | None:
    """Returns the sketch of embeddings, float32 [n, d], in any order; None if n is less than 200.

    Args:
        embeddings: Those of images that the model was not trained on.
        seed: The seed of the resampling.
    """
    if len(embeddings) < MIN_IMAGES:
        return None
    draw = np.random.default_rng(seed)
    shuffled = embeddings[draw.permutation(len(embeddings))]
    fitted, held_out = np.split(shuffled, [len(embeddings) // 3])
    center = fitted.mean(axis=0)
    _, deviations, axes = np.linalg.svd((fitted - center).astype(np.float64), full_matrices=False)
    # Directions without variance would only amplify rounding.
    count = min(_DIRECTIONS, int((deviations > max(1e-4 * deviations[0], 1e-9)).sum()))
    if not count:
        return None
    scaled = axes[:count].T / deviations[:count] * np.sqrt(len(fitted))
    directions = scaled.astype(np.float32)
    features = _features(held_out, center, directions)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-12
    features = (features - mean) / scale
    evaluations = _resampled_means(features, len(features), _EVALUATIONS, draw)
    windows = _resampled_means(features, WINDOW, _WINDOWS, draw)
    levels = 1 - _P_VALUES
    squares = (windows**2).sum(axis=1) + (evaluations**2).sum(axis=1)[:, None] - 2 * evaluations @ windows.T
    quantiles = np.quantile(np.sqrt(np.maximum(squares, 0)), levels, axis=1)
    return DriftSketch(center, directions, mean, scale, np.quantile(quantiles, _CONFIDENCE, axis=1))


class DriftGauge:
    """Collects the embeddings of served images, and tests every window of 200.

    Args:
        on_window: Called with the distance and the p-value of each window.
    """

    def __init__(self, on_window: Callable[[float, float], None]) -> None:
        self._on_window = on_window
        self._sketch: DriftSketch | None = None
        self._parts: list[NDArray[np.float64]] = []
        self._count = 0
        self._lock = threading.Lock()

    def add(self, sketch: DriftSketch, embeddings: NDArray[np.float32]) -> None:
        """Adds served images; another sketch than before, of another version, begins a new window.

        May be called by several threads.
        """
        with self._lock:
            if sketch is not self._sketch:
                self._sketch, self._parts, self._count = sketch, [], 0
            self._parts.append(sketch.features(embeddings))
            self._count += len(embeddings)
            if self._count < WINDOW:
                return
            features = np.concatenate(self._parts)
            whole = self._count // WINDOW * WINDOW
            for begin in range(0, whole, WINDOW):
                self._on_window(*sketch.test(features[begin : begin + WINDOW]))
            self._parts, self._count = [features[whole:]], self._count - whole


def _features(
    embeddings: NDArray[np.float32], center: NDArray[np.float32], directions: NDArray[np.float32]
) -> NDArray[np.float64]:
    coordinates = ((embeddings - center) @ directions).astype(np.float64)
    return np.concatenate([coordinates, np.abs(coordinates)], axis=1)


def _resampled_means(
    features: NDArray[np.float64], size: int, samples: int, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Returns the means of ``samples`` samples of ``size`` rows with replacement: [samples, columns]."""
    counts = draw.multinomial(size, np.full(len(features), 1 / len(features)), size=samples)
    return counts @ features / size
