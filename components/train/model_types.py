"""The networks by name, with their properties that are needed without loading TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# All networks reduce the image's side to a 32nd.
SMALLEST_IMAGE_SIZE = 32


@dataclass(frozen=True)
class ModelType:
    """The properties of a network.

    Attributes:
        family: Its architecture: ``basic-resnet`` and ``bottleneck-resnet`` are our own, the others are from
            keras.applications.
        image_size: The published image size: the side in pixels.
        dropout: The published dropout rate before the last layer.
        keras_name: Name of its constructor in keras.applications; empty for our own.
        blocks: Number of blocks in each stage, for our own ResNets.
        stages: Number of stages, i.e. groups of blocks after the stem, as counted in its paper; 0 = the
            family's.
    """

    family: str
    image_size: int
    dropout: float
    keras_name: str = ""
    blocks: tuple[int, ...] = ()
    stages: int = 0

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The parts that can be frozen, starting at the image: ``stem``, ``stage1``, ``stage2`` and so on."""
        count = self.stages or _FAMILIES[self.family][1]
        return ("stem", *(f"stage{number}" for number in range(1, count + 1)))

    @property
    def has_imagenet_weights(self) -> bool:
        """Whether ImageNet weights are published: Keras has them for its own networks."""
        return bool(self.keras_name)

    @property
    def scaling(self) -> str:
        """How the model scales pixels of 0..255 before the network.

        ``none`` (the network does it itself), ``minus_one_to_one`` (x / 127.5 - 1),
        ``imagenet_statistics`` (x / 255, minus the mean and divided by the standard deviation of each channel
        over ImageNet), or ``caffe`` (channels in the order blue, green, red, minus their means over
        ImageNet).
        """
        return _FAMILIES[self.family][0]


# Scaling and number of stages by family. The published weights were trained with this scaling: another one
# silently costs ten points of accuracy.
_FAMILIES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "basic-resnet": ("imagenet_statistics", 4),
        "bottleneck-resnet": ("imagenet_statistics", 4),
        "resnet": ("caffe", 4),
        "efficientnet": ("none", 7),
        "efficientnet-v2": ("none", 6),
        "mobilenet-v2": ("minus_one_to_one", 7),
        "mobilenet-v3-small": ("none", 5),
        "mobilenet-v3-large": ("none", 6),
        "convnext": ("none", 4),
    }
)

# Image sizes and dropout rates: Tan and Le, EfficientNet (2019), table in the authors' code; keras.io's
# applications page for the V2 networks; Howard et al., MobileNetV3 (2019), section 6.1.1; Liu et al.,
# ConvNeXt (2022), table 5. Keras builds ConvNeXt without stochastic depth.
MODEL_TYPES: Mapping[str, ModelType] = MappingProxyType(
    {
        "resnet-18": ModelType("basic-resnet", 224, 0.0, blocks=(2, 2, 2, 2)),
        "resnet-34": ModelType("basic-resnet", 224, 0.0, blocks=(3, 4, 6, 3)),
        "resnet-50": ModelType("resnet", 224, 0.0, "ResNet50"),
        "resnet-101": ModelType("resnet", 224, 0.0, "ResNet101"),
        "resnet-152": ModelType("resnet", 224, 0.0, "ResNet152"),
        "resnet-200": ModelType("bottleneck-resnet", 224, 0.0, blocks=(3, 24, 36, 3)),
        "efficientnet-b0": ModelType("efficientnet", 224, 0.2, "EfficientNetB0"),
        "efficientnet-b1": ModelType("efficientnet", 240, 0.2, "EfficientNetB1"),
        "efficientnet-b2": ModelType("efficientnet", 260, 0.3, "EfficientNetB2"),
        "efficientnet-b3": ModelType("efficientnet", 300, 0.3, "EfficientNetB3"),
        "efficientnet-b4": ModelType("efficientnet", 380, 0.4, "EfficientNetB4"),
        "efficientnet-b5": ModelType("efficientnet", 456, 0.4, "EfficientNetB5"),
        "efficientnet-b6": ModelType("efficientnet", 528, 0.5, "EfficientNetB6"),
        "efficientnet-b7": ModelType("efficientnet", 600, 0.5, "EfficientNetB7"),
        "mobilenet-v2": ModelType("mobilenet-v2", 224, 0.0, "MobileNetV2"),
        "efficientnet-v2-b0": ModelType("efficientnet-v2", 224, 0.2, "EfficientNetV2B0"),
        "efficientnet-v2-b1": ModelType("efficientnet-v2", 240, 0.2, "EfficientNetV2B1"),
        "efficientnet-v2-b2": ModelType("efficientnet-v2", 260, 0.3, "EfficientNetV2B2"),
        "efficientnet-v2-b3": ModelType("efficientnet-v2", 300, 0.3, "EfficientNetV2B3"),
        "efficientnet-v2-s": ModelType("efficientnet-v2", 384, 0.2, "EfficientNetV2S"),
        "efficientnet-v2-m": ModelType("efficientnet-v2", 480, 0.3, "EfficientNetV2M", stages=7),
        "efficientnet-v2-l": ModelType("efficientnet-v2", 480, 0.4, "EfficientNetV2L", stages=7),
        "mobilenet-v3-small": ModelType("mobilenet-v3-small", 224, 0.2, "MobileNetV3Small"),
        "mobilenet-v3-large": ModelType("mobilenet-v3-large", 224, 0.2, "MobileNetV3Large"),
        "convnext-tiny": ModelType("convnext", 224, 0.0, "ConvNeXtTiny"),
        "convnext-small": ModelType("convnext", 224, 0.0, "ConvNeXtSmall"),
    }
)
