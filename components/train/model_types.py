"""The networks by name, and what is to be known of each without loading TensorFlow."""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class ModelType:
    """What a network expects.

    Attributes:
        image_size: Side in pixels for which it was published.
        smallest_image_size: Below this its last feature map would vanish.
        scaling: How pixels of 0..255 are scaled inside the model: ``none`` (the network does it
            itself), ``minus_one_to_one`` (x / 127.5 - 1), or ``imagenet_statistics`` (x / 255, minus
            mean, by standard deviation of each channel over ImageNet).
        dropout: Rate before the last layer, as published.
        has_imagenet_weights: Whether weights trained on ImageNet are published for it.
    """

    image_size: int
    smallest_image_size: int
    scaling: str
    dropout: float
    has_imagenet_weights: bool


MODEL_TYPES = MappingProxyType(
    {
        "resnet-18": ModelType(224, 32, "imagenet_statistics", 0.0, has_imagenet_weights=False),
        "efficientnet-b0": ModelType(224, 32, "none", 0.2, has_imagenet_weights=True),
        "mobilenet-v2": ModelType(224, 32, "minus_one_to_one", 0.0, has_imagenet_weights=True),
    }
)
