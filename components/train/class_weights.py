"""How much an image of each class counts in the training loss, or a label that an image has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def class_weights(kind: str, images_per_class: Sequence[int]) -> NDArray[np.float32]:
    """Returns a weight for each class, such that the mean over all images is 1.

    Args:
        kind: ``none`` (all 1), ``balanced`` (inverse to the number of images: all classes count alike) or
            ``sqrt`` (inverse to its square root, between the two).
        images_per_class: Training images of each class. A class without any gets the weight 0.

    Returns:
        float32 [classes].
    """
    counts = np.asarray(images_per_class, np.float64)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def positive_weights(kind: str, images_per_label: Sequence[int], images: int) -> NDArray[np.float32]:
    """Returns how much a label that an image has counts beside one that it has not, for each label.

    Args:
        kind: ``none`` (all 1), ``balanced`` (images without the label / images with it, so that both halves
            of its decisions count alike, as the documentation of PyTorch's ``BCEWithLogitsLoss`` gives for
            ``pos_weight``) or ``sqrt`` (the square root of that).
        images_per_label: Training images that have each label.
        images: Training images.

    Returns:
        float32 [labels]; 1 for a label that no image has, or every one.
    """
    having = np.asarray(images_per_label, np.float64)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[kind]
    both = (having > 0) & (having < images)
    ratio = (images - having) / np.maximum(having, 1)
    return np.where(both, np.where(both, ratio, 1.0) ** power, 1.0).astype(np.float32)
