"""Finds labels that are likely wrong, by what the other images say about an image.

As in confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
Labels", 2021): probabilities from a classifier that was not fitted to the image, compared with those that are
usual for each label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# With fewer images of a label, its images are not judged, and no image is said to be of it.
MIN_IMAGES_OF_CLASS = 10
# Images that span the space of the classifier: with more, time and memory grow.
_LANDMARKS = 3000
# The classifier's kernel, of the squared distance in units of the median one, and its ridges.
_SCALE = 2.0
_RIDGES = (0.1, 0.3, 1.0)
_ROWS_AT_ONCE = 4096
# Equal images would make the kernel singular.
_JITTER = 1e-4
# An image with more copies is not judged: what leaves them out takes the cube of their number.
_MAX_COPIES = 500
# Labels that the first round doubts so much are not learned from in the second.
_DOUBTED = 0.5
# About the best sum of recall and precision on photos of flowers.
_MIN_SCORE = 0.66
_TEMPERATURES = np.geomspace(0.3, 60, 40)


@dataclass(frozen=True)
class LabelDoubt:
    """An image whose label is likely wrong.

    Attributes:
        number: The image.
        suggested: The class that the other images speak for.
        score: The probability of that class minus the one of the image's label, 0..1.
    """

    number: int
    suggested: int
    score: float


def find_wrong_labels(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    num_classes: int,
    groups: Sequence[Sequence[int]] = (),
) -> list[LabelDoubt]:
    """Returns the images whose label is likely wrong, the surest first.

    Args:
        features: [images, features].
        classes: The label of each image.
        num_classes: The number of classes.
        groups: Images that are copies of each other: a copy does not confirm a label.
    """
    counts = np.bincount(classes, minlength=num_classes)
    judged = counts >= MIN_IMAGES_OF_CLASS
    if judged.sum() < 2:
        return []
    probabilities = out_of_sample_probabilities(features, classes, num_classes, groups)
    rows = np.arange(len(classes))
    probabilities = np.where(judged, probabilities, 0.0)
    own = probabilities[rows, classes].copy()
    probabilities[rows, classes] = 0.0
    suggested = probabilities.argmax(axis=1)
    score = probabilities[rows, suggested] - own
    found = np.flatnonzero(judged[classes] & (score > _MIN_SCORE))
    return [
        LabelDoubt(int(number), int(suggested[number]), float(score[number]))
        for number in found[np.argsort(-score[found], kind="stable")]
    ]


def out_of_sample_probabilities(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    num_classes: int,
    groups: Sequence[Sequence[int]] = (),
) -> NDArray[np.float64]:
    """Returns the probability of each class, from a classifier that was not fitted to the image.

    It is a ridge regression of the labels with a Gaussian kernel. What it would predict if the image, with
    its copies, was left out follows in closed form from what it does predict. In a second round, it learns
    the first one's probabilities instead of the labels that those doubt. The result is the mean over both
    rounds and several ridges, each with the temperature that has the smallest cross-entropy.

    Args:
        features: [images, features].
        classes: The label of each image.
        num_classes: The number of classes.
        groups: Images that are left out together.

    Returns:
        [images, classes].
    """
    directions, variances = kernel_directions(features)
    labels = np.eye(num_classes)[classes]
    rounds = []
    for ridge in _RIDGES:
        first = _with_temperature(_left_out(directions, variances, labels, ridge, groups), classes)
        doubted = (np.where(labels > 0, 0, first).max(axis=1) - (first * labels).sum(axis=1)) > _DOUBTED
        believed = np.where(doubted, first.argmax(axis=1), classes)
        targets = np.where(doubted[:, None], first, labels)
        second = _with_temperature(_left_out(directions, variances, targets, ridge, groups), believed)
        rounds += [first, second]
    mean: NDArray[np.float64] = np.mean(rounds, axis=0)
    return mean


def kernel_directions(
    features: NDArray[np.float32], max_landmarks: int = _LANDMARKS
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns coordinates of the images, [images, m], of which the kernel is the inner product.

    They are uncorrelated; the second array has their sums of squares. Source: Williams and Seeger, "Using the
    Nystroem Method to Speed Up Kernel Machines", 2001.

    Args:
        features: [images, features].
        max_landmarks: Images that span the space, at most.
    """
    scaled = features - features.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-9)
    count = len(scaled)
    # Evenly spaced: within a split, the order of the images is random.
    chosen = min(count, max_landmarks)
    landmarks = scaled[np.arange(chosen) * count // chosen]
    distances = _squared_distances(landmarks, landmarks)
    unit = max(float(np.median(distances)), 1e-9) / _SCALE
    kernel = np.exp(-distances / unit).astype(np.float64)
    root = np.linalg.inv(np.linalg.cholesky(kernel + _JITTER * np.eye(len(kernel)))).T.astype(np.float32)
    coordinates = np.empty((count, chosen), np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        coordinates[rows] = np.exp(-_squared_distances(scaled[rows], landmarks) / unit) @ root
    coordinates -= coordinates.mean(axis=0)
    # In single precision, which the ridges hide and which takes half the time.
    variances, axes = np.linalg.eigh(coordinates.T @ coordinates)
    return coordinates @ axes, np.maximum(variances, 0.0).astype(np.float64)


def _squared_distances(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    return np.asarray(np.maximum(norms - 2 * left @ right.T, 0))


def _left_out(
    directions: NDArray[np.float32],
    variances: NDArray[np.float64],
    targets: NDArray[np.float64],
    ridge: float,
    groups: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """Returns the predictions for each image, of a regression that is fitted without its group."""
    shrunk = (directions / (variances + ridge)).astype(np.float32)
    mean = targets.mean(axis=0)
    residuals = targets - mean - directions @ (shrunk.T @ (targets - mean).astype(np.float32))
    # The first term is the intercept.
    leverage = 1 / len(targets) + np.einsum("ij,ij->i", directions, shrunk)
    predicted: NDArray[np.float64] = targets - residuals / np.maximum(1 - leverage, 1e-6)[:, None]
    for group in map(list, groups):
        if len(group) > _MAX_COPIES:
            predicted[group] = targets[group]
            continue
        hat = 1 / len(targets) + directions[group].astype(np.float64) @ shrunk[group].T
        inverse = np.linalg.pinv(np.eye(len(group)) - hat)
        predicted[group] = targets[group] - inverse @ residuals[group]
    return predicted


def _with_temperature(scores: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns probabilities with the temperature that has the smallest cross-entropy."""
    rows = np.arange(len(classes))
    shifted = scores - scores.max(axis=1, keepdims=True)

    def probabilities(factor: float) -> NDArray[np.float64]:
        exponentials = np.exp(factor * shifted)
        normalized: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return normalized

    def cross_entropy(factor: float) -> float:
        return -float(np.log(np.maximum(probabilities(factor)[rows, classes], 1e-12)).mean())

    return probabilities(min(_TEMPERATURES.tolist(), key=cross_entropy))
