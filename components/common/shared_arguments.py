"""Declarations of the arguments that more than one step takes, so that they read the same everywhere."""

from typing import Any

from components.common.arguments import argument


def seed() -> Any:
    """The seed of everything that is drawn at random."""
    return argument(
        0,
        "Seed of everything drawn at random: the split, the order of the images, the weights. "
        "The same seed gives the same data set.",
        minimum=0,
        maximum=2**31 - 1,
    )


def num_classes() -> Any:
    """The number of classes."""
    return argument(
        0,
        "Number of classes; the labels in the data must be exactly 1..num_classes. "
        "0 = as many as the data has.",
        minimum=0,
    )


def train_batch_size() -> Any:
    """Images in a training step."""
    return argument(32, "Images in one training step, over all devices together.", minimum=1)


def num_eval_images() -> Any:
    """Validation images in an evaluation."""
    return argument(
        0,
        "Validation images that an evaluation during training uses: a sample spread evenly over the data, "
        "the same at every evaluation, that the seed decides; 0 = all. Must not exceed what there is.",
        minimum=0,
    )
