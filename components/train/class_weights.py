"""Weights of classes and labels in the training loss."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def class_weights(kind: str, images_per_class: Sequence[int]) -> NDArray[np.float32]:
    """Returns a weight for each class; the mean weight over all images is 1.

    Args:
        kind: ``none`` (all 1), ``balanced`` (inversely proportional to the number of images of the class, so
            that all classes have equal weight in total) or ``sqrt`` (to its square root).
        images_per_class: Training images of each class. A class without images gets weight 0.

    Returns:
        float32 [classes].
    """
    counts = np.asarray(images_per_class, np.float64)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def positive_weights(kind: str, images_per_label: Sequence[int], images: int) -> NDArray[np.float32]:
    """Returns the weight of positive relative to negative examples of each label.

    Args:
        kind: ``none`` (all 1), ``balanced`` (images without the label / images with it, so that positive and
            negative examples have equal weight in total, as PyTorch recommends for the ``pos_weight`` of its
            ``BCEWithLogitsLoss``) or ``sqrt`` (its square root).
        images_per_label: Number of training images with each label.
        images: Number of training images.

    Returns:
        float32 [labels]; 1 for a label that no image has, or that all images have.
    """
    positive = np.asarray(images_per_label, np.float64)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    both = (positive > 0) & (positive < images)
    ratio = (images - positive) / np.maximum(positive, 1)
    return np.where(both, np.where(both, ratio, 1.0) ** power, 1.0).astype(np.float32)
