"""Decodes the images in records, inside the TensorFlow graph, for training.

The served model, which evaluation uses too, decodes files with ``serving_decoder``, to the same pixels.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import starts_with

JPEG_TRANSFORM = "INTEGER_ACCURATE"


def decode_image(encoded: Any, image_size: int) -> Any:
    """Decodes one image and scales it to a square.

    The whole image is scaled, without cropping: an image that is not square is stretched. Scaling is bilinear
    without antialiasing; JPEG uses the accurate transform, with the same pixels as Pillow. Both are the same
    on all machines.

    Args:
        encoded: A scalar string tensor: the bytes of a JPEG, PNG, GIF (first frame) or BMP file.
        image_size: The square's side in pixels.

    Returns:
        uint8 [image_size, image_size, 3], red, green, blue.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the bytes are not such an image.
    """
    return scale_to_square(decode_pixels(encoded), image_size)


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


def scale_to_square(pixels: Any, image_size: int) -> Any:
    """Scales uint8 [height, width, 3] to uint8 [size, size, 3], as documented in ``decode_image``."""
    scaled = tf.image.resize(pixels, [image_size, image_size], method="bilinear", antialias=False)
    return tf.saturate_cast(tf.round(scaled), tf.uint8)
