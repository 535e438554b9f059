"""How much an image of each class counts in the training loss."""

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
