"""Whether more images would help: accuracy against the number of images, and where the curve leads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.audit.wrong_labels import MIN_IMAGES_OF_CLASS

_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
_HELD_OUT = 0.2
_REPEATS = 12
# Images that span the space of the classifier: with more, time and memory grow.
_LANDMARKS = 1000
# The classifier's kernel, of the squared distance in units of the median one, and its ridge.
_SCALE = 2.0
_RIDGE = 0.3
_ROWS_AT_ONCE = 4096
# Equal images would make the kernel singular.
_JITTER = 1e-4
# Exponents of the power law: errors of classifiers fall with about the root of the number of images.
_EXPONENTS = np.arange(0.1, 1.55, 0.1)
_MORE = 2.0
# Of the repeats' forecasts: between them is the interval.
_LOWER, _UPPER = 0.05, 0.95


@dataclass(frozen=True)
class Curve:
    """Accuracy against the number of images.

    Attributes:
        name: The label; empty = all images.
        images: The number of images of the label in the data set.
        points: (images of all labels that were learned from, accuracy on others).
        forecast: The accuracy with twice as many images as there are.
        lower: The lower end of the interval of the forecast.
        upper: The upper end.
    """

    name: str
    images: int
    points: tuple[tuple[float, float], ...]
    forecast: float
    lower: float
    upper: float

    @property
    def gain(self) -> float:
        """What twice as many images would add to the accuracy."""
        return max(self.forecast - self.points[-1][1], 0.0)


def learning_curves(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    labels: Sequence[str],
    groups: Sequence[Sequence[int]] = (),
) -> list[Curve]:
    """Returns the curve of all images, then that of each label with enough of them; empty if there are few.

    A classifier of the network's features learns from 10% to 80% of the images and is measured on another
    20%, with several random choices of both. A power law is fitted to each choice. The interval is where 90%
    of the forecasts are.

    Args:
        features: [images, features].
        classes: The label of each image.
        labels: The names of the classes.
        groups: Copies of each other, which are not divided.
    """
    count = len(classes)
    counts = np.bincount(classes, minlength=len(labels))
    if count * _FRACTIONS[0] < 2 * len(labels):
        return []
    sizes, accuracies = measure_accuracies(features, classes, len(labels), groups)
    enough = np.flatnonzero(counts >= MIN_IMAGES_OF_CLASS).tolist()
    curves = [_curve("", count, sizes, accuracies[..., 0], _MORE * count)]
    for index in enough:
        curves.append(
            _curve(labels[index], int(counts[index]), sizes, accuracies[..., index + 1], _MORE * count)
        )
    return curves


def measure_accuracies(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    num_classes: int,
    groups: Sequence[Sequence[int]] = (),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the numbers of images that are learned from, and the accuracies.

    Args:
        features: [images, features].
        classes: The label of each image.
        num_classes: The number of classes.
        groups: Copies of each other, which are not divided.

    Returns:
        [sizes] and [repeats, sizes, 1 + classes], first that of all images; NaN for a class without an image
        held out.
    """
    coordinates = _kernel_coordinates(features)
    unit_of = np.arange(len(classes))
    for group in groups:
        unit_of[list(group)] = group[0]
    targets = np.eye(num_classes)[classes]
    repeats = [_accuracies(coordinates, targets, classes, unit_of, repeat) for repeat in range(_REPEATS)]
    return len(classes) * np.array(_FRACTIONS), np.stack(repeats)


def _kernel_coordinates(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns coordinates of the images, [images, landmarks], with a Gaussian kernel as their inner product.

    Source: Williams and Seeger, "Using the Nystroem Method to Speed Up Kernel Machines", 2001.
    """
    scaled = features - features.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-9)
    count = len(scaled)
    # Evenly spaced: within a split, the order of the images is random.
    chosen = min(count, _LANDMARKS)
    landmarks = scaled[np.arange(chosen) * count // chosen]
    distances = _squared_distances(landmarks, landmarks)
    unit = max(float(np.median(distances)), 1e-9) / _SCALE
    kernel = np.exp(-distances / unit).astype(np.float64)
    root = np.linalg.inv(np.linalg.cholesky(kernel + _JITTER * np.eye(len(kernel)))).T.astype(np.float32)
    coordinates = np.empty((count, chosen), np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        coordinates[rows] = np.exp(-_squared_distances(scaled[rows], landmarks) / unit) @ root
    return coordinates


def _squared_distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    return np.asarray(np.maximum(norms - 2 * left @ right.T, 0))


def _accuracies(
    coordinates: NDArray[np.float32],
    targets: NDArray[np.float64],
    classes: NDArray[np.int64],
    unit_of: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """Returns the accuracy of each fraction: on all images held out, and on those of each label."""
    draw = np.random.default_rng(seed)
    # Copies have the same place in the order.
    order = np.argsort(draw.permutation(len(classes))[unit_of], kind="stable")
    held_out = round(_HELD_OUT * len(order))
    tested, pool = order[:held_out], order[held_out:]
    found = []
    size, labels = coordinates.shape[1], targets.shape[1]
    squares, products = np.zeros((size, size)), np.zeros((size, labels))
    begin, center, mean = 0, np.zeros(size), np.zeros(labels)
    for fraction in _FRACTIONS:
        # Each part has the images of the one before, whose sums are kept.
        end = round(fraction * len(order))
        part, wanted = coordinates[pool[begin:end]], targets[pool[begin:end]].astype(np.float32)
        squares += part.T @ part
        products += part.T @ wanted
        center += (part.sum(axis=0, dtype=np.float64) - (end - begin) * center) / end
        mean += (wanted.sum(axis=0, dtype=np.float64) - (end - begin) * mean) / end
        weights = np.linalg.solve(
            squares - end * np.outer(center, center) + _RIDGE * np.eye(size),
            products - end * np.outer(center, mean),
        )
        begin = end
        correct = ((coordinates[tested] - center) @ weights + mean).argmax(axis=1) == classes[tested]
        by_label = [
            correct[classes[tested] == index].mean() if (classes[tested] == index).any() else np.nan
            for index in range(targets.shape[1])
        ]
        found.append([correct.mean(), *by_label])
    return np.array(found)


def _curve(
    name: str, images: int, sizes: NDArray[np.float64], accuracies: NDArray[np.float64], size: float
) -> Curve:
    known = accuracies[~np.isnan(accuracies).any(axis=1)]
    points = tuple(zip(sizes.tolist(), known.mean(axis=0).tolist(), strict=True))
    return Curve(name, images, points, *forecast(sizes, known, size))


def forecast(
    sizes: NDArray[np.float64], accuracies: NDArray[np.float64], size: float
) -> tuple[float, float, float]:
    """Returns the accuracy at another size, and the ends of its interval.

    Args:
        sizes: The numbers of images.
        accuracies: [repeats, sizes].
        size: Another number of images.
    """
    center = extrapolate(sizes, accuracies.mean(axis=0), size)
    forecasts = [extrapolate(sizes, row, size) for row in accuracies]
    lower, upper = np.quantile(forecasts, [_LOWER, _UPPER]).tolist()
    return center, min(lower, center), max(upper, center)


def extrapolate(sizes: NDArray[np.float64], accuracies: NDArray[np.float64], size: float) -> float:
    """Returns the accuracy at another size, by the power law ``error = c + a * size**-b`` that fits best.

    Source: Hestness and others, "Deep Learning Scaling is Predictable, Empirically", 2017.
    """
    errors = 1 - accuracies
    best = (np.inf, float(errors[-1]))
    for exponent in _EXPONENTS:
        x = sizes**-exponent
        slope = float(((x - x.mean()) * (errors - errors.mean())).sum() / np.square(x - x.mean()).sum())
        # Neither does more data harm, nor is an error below zero.
        slope = max(slope, 0.0)
        floor = float(errors.mean() - slope * x.mean())
        if floor < 0:
            floor, slope = 0.0, float((x * errors).sum() / np.square(x).sum())
        loss = float(np.square(floor + slope * x - errors).sum())
        best = min(best, (loss, floor + slope * size**-exponent))
    return float(1 - best[1])
