"""Decodes an image file in any format that the convert step accepts, inside the TensorFlow graph.

Training decodes the output of ``prepare_image`` with ``training_decoder.decode_image``; ``decode_image_file``
decodes the original file to the same pixels. They are equal bit for bit except for photos that are rotated,
which the convert step re-encodes as JPEG.

Without WebP, the graph has only operations of TensorFlow 2.6, so that all servers since then can load it;
``DecodeWebP`` needs TensorFlow 2.20.

Rejected, because TensorFlow cannot decode them inside a graph:

* animated WebP: TensorFlow 2.21 overruns its buffer (``DecodeWebP`` writes four channels per pixel into
  memory for three), so that such a file must never reach it;
* BMP files with compressed rows (RLE).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.bmp import decode_bmp
from imgpipe.components.images.graph.byte_reader import read_byte, read_bytes, starts_with
from imgpipe.components.images.graph.gif import decode_gif
from imgpipe.components.images.graph.orientation import (
    has_no_app1_segment,
    jpeg_orientation,
    png_orientation,
    rotate_upright,
    webp_orientation,
)
from imgpipe.components.images.graph.png_chunks import png_chunks
from imgpipe.components.images.graph.training_decoder import JPEG_TRANSFORM, is_jpeg, scale_to_square
from imgpipe.components.images.graph.transparency import WHITE, composite_on_white
from imgpipe.components.images.resize_modes import STRETCH

# Offsets in a PNG file: signature, then the IHDR chunk.
_PNG_BIT_DEPTH, _PNG_COLOR_TYPE = 24, 25
_GRAY, _GRAY_ALPHA, _RGB_ALPHA = 0, 4, 6
# Offsets in a WebP file: the kind of the first chunk, and the flags if it is VP8X (RFC 9649).
_WEBP_KIND, _WEBP_FLAGS = 12, 20
_WEBP_ANIMATION = 0x02


def decode_image_file(encoded: Any, image_size: int, *, webp: bool, resize: str = STRETCH) -> Any:
    """Decodes one image file and scales it to a square, as ``training_decoder.decode_image`` does.

    Args:
        encoded: A scalar string tensor: the bytes of a JPEG, PNG, GIF or BMP file, or a WebP file if
            ``webp`` is True.
        image_size: The square's side in pixels.
        webp: Whether WebP files are decoded.
        resize: See ``scale_to_square``.

    Returns:
        uint8 [image_size, image_size, 3]: red, green, blue, upright, on white.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the bytes are not such an image.
    """
    # Most images are JPEG: no other format is checked for them.
    pixels = tf.cond(
        is_jpeg(encoded),
        lambda: _decode_jpeg(encoded),
        lambda: _as_one_node(partial(_decode_other, webp=webp), encoded),
    )
    pixels.set_shape([None, None, 3])
    return scale_to_square(pixels, image_size, resize)


def _decode_other(encoded: Any, *, webp: bool) -> Any:
    decoders = [
        (b"\x89PNG\r\n\x1a\n", _decode_png),
        (b"GIF8", decode_gif),
        (b"BM", decode_bmp),
        (b"RIFF", _decode_webp if webp else _reject_webp),
    ]
    pixels = tf.case(
        [(starts_with(encoded, begin), partial(decode, encoded)) for begin, decode in decoders],
        default=lambda: _reject(encoded, "not a JPEG, PNG, GIF, BMP or WebP file"),
    )
    return tf.ensure_shape(pixels, [None, None, 3])


def _as_one_node(function: Callable[[Any], Any], encoded: Any) -> Any:
    """Calls a function as a single graph node that is not inlined.

    Otherwise its hundreds of nodes are processed one by one, as dead nodes, for every image that does not
    need them, which takes as long as decoding a small JPEG.
    """
    call = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    return call(encoded)


def _decode_jpeg(encoded: Any) -> Any:
    # As in decode_image, so that an upright photo has the same pixels as a record.
    pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method=JPEG_TRANSFORM)
    return tf.cond(
        has_no_app1_segment(encoded),
        lambda: pixels,
        lambda: rotate_upright(pixels, _as_one_node(jpeg_orientation, encoded)),
    )


def _decode_png(encoded: Any) -> Any:
    has_transparent_color, exif_offset, exif_bytes = png_chunks(encoded)
    depth, color_type = read_byte(encoded, _PNG_BIT_DEPTH), read_byte(encoded, _PNG_COLOR_TYPE)
    with_alpha = tf.logical_or(tf.equal(color_type, _GRAY_ALPHA), tf.equal(color_type, _RGB_ALPHA))
    pixels = tf.case(
        [
            (
                tf.logical_and(tf.equal(depth, 16), tf.equal(color_type, _GRAY)),
                lambda: _decode_sixteen_bit_gray(encoded),
            ),
            (
                tf.logical_or(with_alpha, has_transparent_color),
                lambda: composite_on_white(tf.io.decode_png(encoded, channels=4)),
            ),
        ],
        default=lambda: tf.io.decode_png(encoded, channels=3),
    )
    return rotate_upright(pixels, png_orientation(encoded, exif_offset, exif_bytes))


def _decode_sixteen_bit_gray(encoded: Any) -> Any:
    """Decodes 16-bit gray to uint8 [height, width, 3]: full range to full range, rounded.

    TensorFlow's own conversion drops the lower byte.
    """
    pixels = tf.cast(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16), tf.int32)
    opaque = tf.where(pixels[..., 3:] > 0, (pixels[..., :3] + 128) // 257, WHITE)
    return tf.cast(opaque, tf.uint8)


def _decode_webp(encoded: Any) -> Any:
    extended = tf.equal(read_bytes(encoded, _WEBP_KIND, 4), b"VP8X")
    animated = tf.logical_and(
        extended, tf.not_equal(tf.bitwise.bitwise_and(read_byte(encoded, _WEBP_FLAGS), _WEBP_ANIMATION), 0)
    )
    check = tf.debugging.Assert(
        tf.logical_not(animated), ["an animated WebP cannot be decoded: send its first frame as an image"]
    )
    with tf.control_dependencies([check]):
        # channels=0 returns 4 channels if the image has transparency, otherwise 3.
        image = tf.io.decode_webp(tf.identity(encoded), channels=0)[0]
    pixels = tf.cond(
        tf.equal(tf.shape(image)[2], 4),
        lambda: composite_on_white(image),
        lambda: tf.ensure_shape(image, [None, None, 3]),
    )
    return rotate_upright(pixels, webp_orientation(encoded))


def _reject_webp(encoded: Any) -> Any:
    return _reject(encoded, "this model does not decode WebP files: send a JPEG or PNG file")


def _reject(encoded: Any, reason: str) -> Any:
    check = tf.debugging.Assert(
        # Never true. A constant would be folded and would fail when the graph is built.
        tf.less(tf.strings.length(encoded), 0),
        [f"{reason}; its size in bytes:", tf.strings.length(encoded)],
    )
    with tf.control_dependencies([check]):
        return tf.zeros([1, 1, 3], tf.uint8)
