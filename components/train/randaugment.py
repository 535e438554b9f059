"""RandAugment: random changes of color and geometry.

Source: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020:
two operations per image, drawn uniformly from fourteen, at level 9 of 10 with the strengths of the authors'
code. Two things differ: enhancing weakens as often as it strengthens, and shearing keeps the center fixed.
"""

import math
from collections.abc import Callable
from typing import Any

from imgpipe.components.common.tf_import import tf

OPERATIONS = 2
# Two random numbers for each operation: which one, and its sign.
DRAWS = 2 * OPERATIONS

_LEVEL = 0.9
_DEGREES = 30 * _LEVEL
_SHEAR = 0.3 * _LEVEL
# A fraction of the side: the authors translate by up to 100 of 331 pixels.
_TRANSLATION = 100 / 331 * _LEVEL
_ENHANCEMENT = 1.8 * _LEVEL + 0.1 - 1
_POSTERIZE_BITS = 4
_SOLARIZE_THRESHOLD = int(256 * _LEVEL)
# The color outside the image.
_GRAY = 128.0
# The weights of red, green and blue in the brightness (ITU-R 601-2, as in Pillow).
_LUMA = (0.299, 0.587, 0.114)


def randaugment(image: Any, draws: Any) -> Any:
    """Changes an image at random.

    Args:
        image: uint8 [side, side, 3]; the side must be known when the graph is built.
        draws: float32 [DRAWS], uniform in [0, 1).

    Returns:
        uint8 [side, side, 3].
    """
    for number in range(OPERATIONS):
        operation_draw, sign_draw = draws[2 * number], draws[2 * number + 1]
        sign = tf.where(sign_draw < 0.5, -1.0, 1.0)
        branches = _operations(tf.cast(image, tf.float32), sign)
        index = tf.cast(operation_draw * len(branches), tf.int32)
        changed = tf.switch_case(tf.minimum(index, len(branches) - 1), branches)
        image = tf.ensure_shape(tf.saturate_cast(tf.round(changed), tf.uint8), image.shape)
    return image


def _operations(pixels: Any, sign: Any) -> list[Callable[[], Any]]:
    """Returns the fourteen operations on float32 [side, side, 3] of integers 0..255."""
    moved = sign * _TRANSLATION * pixels.shape[0]
    angle = sign * math.radians(_DEGREES)
    return [
        lambda: pixels,
        lambda: _autocontrast(pixels),
        lambda: _equalize(pixels),
        lambda: _transform(pixels, ((tf.cos(angle), -tf.sin(angle)), (tf.sin(angle), tf.cos(angle)))),
        lambda: tf.where(pixels < _SOLARIZE_THRESHOLD, pixels, 255 - pixels),
        lambda: _enhance(_gray(pixels), pixels, sign),
        lambda: tf.floor(pixels / 2 ** (8 - _POSTERIZE_BITS)) * 2 ** (8 - _POSTERIZE_BITS),
        lambda: _enhance(tf.reduce_mean(_gray(pixels)), pixels, sign),
        lambda: _enhance(0.0, pixels, sign),
        lambda: _enhance(_smooth(pixels), pixels, sign),
        lambda: _transform(pixels, ((1.0, sign * _SHEAR), (0.0, 1.0))),
        lambda: _transform(pixels, ((1.0, 0.0), (sign * _SHEAR, 1.0))),
        lambda: _transform(pixels, ((1.0, 0.0), (0.0, 1.0)), right=moved),
        lambda: _transform(pixels, ((1.0, 0.0), (0.0, 1.0)), down=moved),
    ]


def _enhance(degenerate: Any, pixels: Any, sign: Any) -> Any:
    """Moves the image away from its degenerate version or towards it, as Pillow's ``ImageEnhance``."""
    return tf.clip_by_value(degenerate + (1 + sign * _ENHANCEMENT) * (pixels - degenerate), 0.0, 255.0)


def _gray(pixels: Any) -> Any:
    return tf.reduce_sum(pixels * tf.constant(_LUMA), axis=-1, keepdims=True)


def _smooth(pixels: Any) -> Any:
    """Smooths as Pillow's ``SMOOTH``: a pixel has five times the weight of each of its eight neighbors."""
    means = tf.nn.avg_pool2d(pixels[None], 3, 1, "SAME")[0]
    return (9 * means + 4 * pixels) / 13


def _autocontrast(pixels: Any) -> Any:
    """Stretches each channel to 0..255; a channel of a single value is unchanged."""
    low, high = (reduce(pixels, axis=(0, 1)) for reduce in (tf.reduce_min, tf.reduce_max))
    return tf.where(high > low, tf.math.divide_no_nan((pixels - low) * 255, high - low), pixels)


def _equalize(pixels: Any) -> Any:
    """Equalizes the histogram of each channel by Pillow's formula."""
    channels = []
    for values in tf.unstack(tf.cast(pixels, tf.int32), axis=-1):
        histogram = tf.math.bincount(tf.reshape(values, [-1]), minlength=256, maxlength=256)
        last = histogram[tf.reduce_max(values)]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        channels.append(tf.where(step > 0, tf.gather(tf.minimum(table, 255), values), values))
    return tf.cast(tf.stack(channels, axis=-1), tf.float32)


def _transform(pixels: Any, matrix: Any, *, right: Any = 0.0, down: Any = 0.0) -> Any:
    """Takes each pixel from ``matrix`` times its position relative to the center, plus (right, down)."""
    center = (pixels.shape[0] - 1) / 2
    (to_x_x, to_x_y), (to_y_x, to_y_y) = matrix
    rows = (
        (to_x_x, to_x_y, center - (to_x_x + to_x_y) * center + right),
        (to_y_x, to_y_y, center - (to_y_x + to_y_y) * center + down),
    )
    transform = tf.stack([tf.cast(value, tf.float32) for value in (*rows[0], *rows[1], 0.0, 0.0)])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=transform[None],
        output_shape=pixels.shape[:2],
        fill_value=_GRAY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
