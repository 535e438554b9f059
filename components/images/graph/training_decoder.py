"""From an image file's bytes to pixels, inside the TensorFlow graph.

Training calls ``decode_image`` for its records. The served model, through which evaluation goes too, decodes
what clients send by ``served_images``, which gives the same pixels for the same picture.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf

_JPEG_START = b"\xff\xd8\xff"
JPEG_TRANSFORM = "INTEGER_ACCURATE"


def decode_image(encoded: Any, image_size: int) -> Any:
    """Decodes one image and scales it to a square.

    The whole picture is kept: a picture that is not square is stretched, nothing is cut off. Scaling is
    bilinear without antialiasing, JPEG's transform the accurate one, whose pixels are Pillow's; both are
    the same everywhere.

    Args:
        encoded: A scalar string tensor: the bytes of a JPEG, PNG, GIF (first frame) or BMP file.
        image_size: The square's side in pixels.

    Returns:
        uint8 [image_size, image_size, 3], red, green, blue.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the bytes are no such image.
    """
    return scale_to_square(decode_pixels(encoded), image_size)


def decode_pixels(encoded: Any) -> Any:
    """Decodes one image as it is: uint8 [height, width, 3]; errors as above."""
    pixels = tf.cond(
        is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=JPEG_TRANSFORM),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    pixels.set_shape([None, None, 3])
    return pixels


def is_jpeg(encoded: Any) -> Any:
    """Returns whether a file's bytes, a scalar string tensor, are a JPEG's: a bool tensor."""
    return tf.equal(tf.strings.substr(encoded, 0, 3), _JPEG_START)


def scale_to_square(pixels: Any, image_size: int) -> Any:
    """Returns uint8 [height, width, 3] scaled to uint8 [size, size, 3], as ``decode_image`` says."""
    scaled = tf.image.resize(pixels, [image_size, image_size], method="bilinear", antialias=False)
    return tf.saturate_cast(tf.round(scaled), tf.uint8)
