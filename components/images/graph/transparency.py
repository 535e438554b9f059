"""Composites transparent pixels on white, inside the TensorFlow graph."""

from typing import Any

from imgpipe.components.common.tf_import import tf

WHITE = 255


def composite_on_white(pixels: Any) -> Any:
    """Returns uint8 [height, width, 3] of uint8 [height, width, 4], whose last channel is alpha.

    In integers, rounded like Pillow's ``alpha_composite``, which the convert step uses: the weighted sum x of
    pixel and white is divided by 255 as (y + (y >> 8)) >> 8 with y = x + 128.
    """
    wide = tf.cast(pixels, tf.int32)
    alpha = wide[..., 3:]
    weighted = wide[..., :3] * alpha + WHITE * (255 - alpha) + 128
    return tf.cast((weighted + weighted // 256) // 256, tf.uint8)
