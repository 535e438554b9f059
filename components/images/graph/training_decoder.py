"""Decodes the images in records, inside the TensorFlow graph, for training.

The served model, which evaluation uses too, decodes files with ``serving_decoder``, to the same pixels.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import starts_with
from imgpipe.components.images.resize_modes import CROP, LETTERBOX, STRETCH

JPEG_TRANSFORM = "INTEGER_ACCURATE"
# Of the bars beside a letterboxed image.
_BAR = 128


def decode_image(encoded: Any, image_size: int, resize: str = STRETCH) -> Any:
    """Decodes one image and scales it to a square.

    Scaling is bilinear without antialiasing; JPEG uses the accurate transform, with the same pixels as
    Pillow. Both are the same on all machines.

    Args:
        encoded: A scalar string tensor: the bytes of a JPEG, PNG, GIF (first frame) or BMP file.
        image_size: The square's side in pixels.
        resize: See ``scale_to_square``.

    Returns:
        uint8 [image_size, image_size, 3], red, green, blue.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the bytes are not such an image.
    """
    return scale_to_square(decode_pixels(encoded), image_size, resize)


def decode_pixels(encoded: Any) -> Any:
    """Decodes one image without scaling: uint8 [height, width, 3]; raises as ``decode_image`` does."""
    pixels = tf.cond(
        is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=JPEG_TRANSFORM),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    pixels.set_shape([None, None, 3])
    return pixels


def is_jpeg(encoded: Any) -> Any:
    """Returns whether a file, a scalar string tensor, is a JPEG: bool []."""
    return starts_with(encoded, b"\xff\xd8\xff")


def scale_to_square(pixels: Any, image_size: int, resize: str = STRETCH) -> Any:
    """Scales uint8 [height, width, 3] to uint8 [size, size, 3], as documented in ``decode_image``.

    Args:
        pixels: The image.
        image_size: The square's side in pixels.
        resize: ``stretch``: the whole image, stretched. ``crop``: the largest square in its middle.
            ``letterbox``: the whole image with its shape, in the middle of a gray square.
    """
    if resize == LETTERBOX:
        return _letterbox(pixels, image_size)
    if resize == CROP:
        height, width = tf.unstack(tf.shape(pixels)[:2])
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    scaled = tf.image.resize(pixels, [image_size, image_size], method="bilinear", antialias=False)
    return tf.saturate_cast(tf.round(scaled), tf.uint8)


def _letterbox(pixels: Any, image_size: int) -> Any:
    size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    scaled_size = tf.cast(tf.maximum(tf.round(size * (image_size / tf.reduce_max(size))), 1), tf.int32)
    scaled = tf.image.resize(pixels, scaled_size, method="bilinear", antialias=False)
    scaled = tf.saturate_cast(tf.round(scaled), tf.uint8)
    before = (image_size - scaled_size) // 2
    bars = tf.stack([before, image_size - scaled_size - before], axis=1)
    padded = tf.pad(scaled, tf.concat([bars, [[0, 0]]], axis=0), constant_values=_BAR)
    return tf.ensure_shape(padded, [image_size, image_size, 3])
