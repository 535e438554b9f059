"""The ResNets that keras.applications lacks: 18 and 34 with basic blocks, 200 with bottlenecks.

Source: He et al., Deep Residual Learning for Image Recognition (2015), table 1, and Identity Mappings (2016)
for the block counts of the 200 layers. Built as in torchvision: the shortcut is a 1x1 convolution if the
shape changes (option B), a bottleneck's stride is in its 3x3 convolution, and convolutions have no bias
because batch normalization follows each of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from imgpipe.components.common.tf_import import keras

_BOTTLENECK_EXPANSION = 4


def build_resnet(blocks: Sequence[int], image_size: int, *, bottleneck: bool, name: str) -> keras.Model:
    """Builds a ResNet without its last layer.

    Args:
        blocks: Number of blocks in each of the four stages.
        image_size: Side of the square images, in pixels.
        bottleneck: Whether a block is a bottleneck (1x1, 3x3, 1x1) or basic (3x3, 3x3).
        name: Name of the Keras model.

    Returns:
        A model: scaled images, float32 [batch, size, size, 3] -> features, float32 [batch, 512] or, with
        bottlenecks, [batch, 2048].
    """
    layers = keras.layers
    build_block: Callable[..., Any] = _bottleneck_block if bottleneck else _basic_block
    images = keras.Input((image_size, image_size, 3))
    x = _convolution(images, 64, 7, stride=2, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            x = build_block(x, 64 * 2**stage, stride, name=f"stage{stage + 1}_block{block + 1}")
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x), name=name)


def _basic_block(x: Any, filters: int, stride: int, *, name: str) -> Any:
    y = _convolution(x, filters, 3, stride=stride, name=f"{name}_1")
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(y, filters, 3, stride=1, name=f"{name}_2")
    return _add_shortcut(x, y, filters, stride, relu=f"{name}_relu2", name=name)


def _bottleneck_block(x: Any, filters: int, stride: int, *, name: str) -> Any:
    y = _convolution(x, filters, 1, stride=1, name=f"{name}_1")
    y = keras.layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(y, filters, 3, stride=stride, name=f"{name}_2")
    y = keras.layers.ReLU(name=f"{name}_relu2")(y)
    y = _convolution(y, _BOTTLENECK_EXPANSION * filters, 1, stride=1, name=f"{name}_3")
    return _add_shortcut(x, y, _BOTTLENECK_EXPANSION * filters, stride, relu=f"{name}_relu3", name=name)


def _add_shortcut(x: Any, y: Any, filters: int, stride: int, *, relu: str, name: str) -> Any:
    if stride != 1 or x.shape[-1] != filters:
        x = _convolution(x, filters, 1, stride=stride, name=f"{name}_shortcut")
    return keras.layers.ReLU(name=relu)(keras.layers.Add(name=f"{name}_add")([x, y]))


def _convolution(x: Any, filters: int, size: int, *, stride: int, name: str) -> Any:
    """A convolution without bias, padded by half its size on all sides, followed by batch normalization."""
    layers = keras.layers
    # With a stride, Keras' padding="same" would pad one side more than the other.
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
