"""Finds labels that are likely wrong, by what the other images say about an image.

As in confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
Labels", 2021), the probabilities are those of classifiers that were not fitted to the image. How many labels
are wrong is estimated from them too. As many labels are named as keep the expected precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.temperature import fit_temperature, probabilities_of, temperature_sums

# With fewer images of a label, its images are not judged, and no image is said to be of it.
MIN_IMAGES_OF_CLASS = 10
# Of the regression, in units of the mean variance of the features: for each layer, the likeliest is chosen.
_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
# An image with more copies is not judged: what leaves them out takes the cube of their number.
_MAX_COPIES = 500
# The part of labels that are wrong. Ten data sets that many people use have 3.3% on average, and a data set
# without any would have no findings: it is not assumed to be better than those. Source: Northcutt, Athalye
# and Mueller, "Pervasive Label Errors in Test Sets Destabilize Machine Learning Benchmarks", 2021.
_WRONG_PARTS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.17, 0.22, 0.3)
_INVERSE_TEMPERATURES = np.geomspace(0.5, 10, 25)
_SMALLEST = 1e-9
# Of the labels that are named, the part that is expected to be wrong, at least; and the smallest probability
# of one of them, without which clear cases would be filled up with labels that are right.
_EXPECTED_PRECISION = 0.85
_MIN_PROBABILITY = 1 / 3


@dataclass(frozen=True)
class LabelDoubt:
    """An image whose label is likely wrong.

    Attributes:
        number: The image.
        suggested: The class that the other images speak for.
        score: The probability that the label is wrong.
    """

    number: int
    suggested: int
    score: float


def find_wrong_labels(
    features: Sequence[NDArray[np.float32]],
    classes: NDArray[np.int64],
    num_classes: int,
    groups: Sequence[Sequence[int]] = (),
) -> list[LabelDoubt]:
    """Returns the images whose label is likely wrong, the surest first.

    There are as many as keep the mean of their probabilities to be wrong, which is the expected precision,
    at 0.85 or more, and none that is less likely wrong than one in three.

    Args:
        features: Of each layer, [images, features].
        classes: The label of each image.
        num_classes: The number of classes.
        groups: Images that are copies of each other: a copy does not confirm a label.
    """
    judged = np.flatnonzero(np.bincount(classes, minlength=num_classes) >= MIN_IMAGES_OF_CLASS)
    if len(judged) < 2:
        return []
    probabilities = out_of_sample_probabilities(features, classes, num_classes, groups)[:, judged]
    numbers = np.flatnonzero(np.isin(classes, judged))
    probabilities, own = probabilities[numbers], np.searchsorted(judged, classes[numbers])
    wrong = wrong_label_probabilities(probabilities, own)
    probabilities[np.arange(len(own)), own] = -1
    suggested = judged[probabilities.argmax(axis=1)]
    order = np.argsort(-wrong, kind="stable")
    expected_precision = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    is_named = (expected_precision >= _EXPECTED_PRECISION) & (wrong[order] > _MIN_PROBABILITY)
    return [
        LabelDoubt(int(numbers[index]), int(suggested[index]), float(wrong[index]))
        for index in order[is_named].tolist()
    ]


def wrong_label_probabilities(
    probabilities: NDArray[np.float64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns the probability of each label to be wrong.

    Some part of the labels is assumed to be wrong, each of the other classes equally often. This part, and a
    temperature of the probabilities, which are those of the right label, are the ones under which the labels
    are most likely.

    Args:
        probabilities: [images, classes], from classifiers that were not fitted to the image.
        classes: The label of each image.
    """
    rows, others = np.arange(len(classes)), probabilities.shape[1] - 1
    logits = np.log(np.maximum(probabilities, _SMALLEST))
    best, wrong = -np.inf, np.zeros(len(classes))
    for inverse in _INVERSE_TEMPERATURES:
        right = probabilities_of(logits, 1 / inverse, multi_label=False)[rows, classes]
        for part in _WRONG_PARTS:
            if_wrong = part / others * (1 - right)
            evidence = (1 - part) * right + if_wrong
            likelihood = float(np.log(evidence).mean())
            if likelihood > best:
                best, wrong = likelihood, if_wrong / evidence
    return wrong


def out_of_sample_probabilities(
    features: Sequence[NDArray[np.float32]],
    classes: NDArray[np.int64],
    num_classes: int,
    groups: Sequence[Sequence[int]] = (),
) -> NDArray[np.float64]:
    """Returns the probability of each class, from classifiers that were not fitted to the image.

    Each layer has its own, a ridge regression of the labels. What it would predict if the image, with its
    copies, was left out follows in closed form from what it does predict. The result is the mean over the
    layers: their mistakes differ.

    Args:
        features: Of each layer, [images, features].
        classes: The label of each image.
        num_classes: The number of classes.
        groups: Images that are left out together.

    Returns:
        [images, classes].
    """
    labels = np.eye(num_classes)[classes]
    rows = np.arange(len(classes))
    layers = []
    for layer in features:
        directions, variances = principal_directions(layer)
        candidates = []
        for ridge in _RIDGES:
            scores = _left_out(directions, variances, labels, ridge, groups)
            temperature = fit_temperature(temperature_sums(scores, classes).sum(axis=0))
            candidates.append(probabilities_of(scores, temperature, multi_label=False))
        likelihoods = [np.log(np.maximum(found[rows, classes], _SMALLEST)).mean() for found in candidates]
        layers.append(candidates[int(np.argmax(likelihoods))])
    mean: NDArray[np.float64] = np.mean(layers, axis=0)
    return mean


def principal_directions(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns uncorrelated coordinates of the images, and the sum of squares of each.

    Args:
        features: [images, features]; each counts equally, whatever its range.
    """
    scaled = features - features.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-9)
    # In single precision, which the ridges hide and which takes half the time.
    variances, axes = np.linalg.eigh(scaled.T @ scaled)
    return scaled @ axes, np.maximum(variances, 0.0).astype(np.float64)


def _left_out(
    directions: NDArray[np.float32],
    variances: NDArray[np.float64],
    targets: NDArray[np.float64],
    ridge: float,
    groups: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """Returns the predictions for each image, of a regression that is fitted without its group."""
    count = len(targets)
    # Of images without any difference, all variances are 0.
    penalty = ridge * max(float(variances.sum()), 1e-9) / count
    inverse = (1 / (variances + penalty)).astype(np.float32)
    mean = targets.mean(axis=0)
    weights = inverse[:, None] * (directions.T @ (targets - mean).astype(np.float32))
    residuals = targets - mean - directions @ weights
    # The first term is the intercept.
    leverage = 1 / count + np.einsum("ij,ij,j->i", directions, directions, inverse)
    predicted: NDArray[np.float64] = targets - residuals / np.maximum(1 - leverage, 1e-6)[:, None]
    for group in map(list, groups):
        if len(group) > _MAX_COPIES:
            predicted[group] = targets[group]
            continue
        part = directions[group].astype(np.float64)
        hat = 1 / count + (part * inverse) @ part.T
        predicted[group] = targets[group] - np.linalg.pinv(np.eye(len(group)) - hat) @ residuals[group]
    return predicted
