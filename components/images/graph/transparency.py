"""Lays transparent pixels on white, inside the TensorFlow graph."""

from typing import Any

from imgpipe.components.common.tf_import import tf

WHITE = 255


def on_white(pixels: Any) -> Any:
    """Returns uint8 [height, width, 3] of uint8 [height, width, 4], whose last channel is alpha.

    In whole numbers, rounded as Pillow's ``alpha_composite`` does, which the convert step uses: its sum of
    the pixel's and white's shares x is divided by 255 as (y + (y >> 8)) >> 8 with y = x + 128.
    """
    wide = tf.cast(pixels, tf.int32)
    alpha = wide[..., 3:]
    shares = wide[..., :3] * alpha + WHITE * (255 - alpha) + 128
    return tf.cast((shares + shares // 256) // 256, tf.uint8)
