"""Decodes BMP files, inside the TensorFlow graph.

TensorFlow's own decoder knows 24 bits a pixel, takes a palette for gray and refuses 1, 4 and 16 bits; so
only the first is left to it. Source of the places: Microsoft's BITMAPFILEHEADER to BITMAPV5HEADER.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import little_endian, part
from imgpipe.components.images.graph.transparency import on_white

_FILE_HEADER_BYTES = 14
# The header of OS/2 1.x, with sizes of 16 bits and a palette of 3 bytes a colour.
_SHORT_HEADER_BYTES = 12
_HEADER_WITH_ALPHA_BYTES = 56
_MASKS = 54
# A palette has blue first.
_RED_GREEN_BLUE = [2, 1, 0]
_UNCOMPRESSED, _BIT_FIELDS = 0, 3


def decode_bmp(encoded: Any) -> Any:
    """Returns the picture as uint8 [height, width, 3], transparency laid on white.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the file is cut off or its rows are
            compressed.
    """
    header = little_endian(encoded, _FILE_HEADER_BYTES, 4)
    is_short = tf.equal(header, _SHORT_HEADER_BYTES)
    bits = tf.where(is_short, little_endian(encoded, 24, 2), little_endian(encoded, 28, 2))
    compression = tf.where(is_short, _UNCOMPRESSED, little_endian(encoded, 30, 4))
    known = tf.logical_or(
        tf.equal(compression, _UNCOMPRESSED),
        tf.logical_and(tf.equal(compression, _BIT_FIELDS), tf.reduce_any(tf.equal(bits, [16, 32]))),
    )
    check = tf.debugging.Assert(
        tf.logical_and(known, tf.reduce_any(tf.equal(bits, [1, 4, 8, 16, 24, 32]))),
        ["a BMP of this kind cannot be decoded: bits a pixel, compression:", bits, compression],
    )
    with tf.control_dependencies([check]):
        plain = tf.logical_and(tf.equal(bits, 24), tf.logical_not(is_short))
    return tf.cond(
        plain,
        lambda: tf.ensure_shape(
            tf.io.decode_image(encoded, channels=3, expand_animations=False), [None, None, 3]
        ),
        lambda: _decode_rows(encoded, header, bits, compression),
    )


def _decode_rows(encoded: Any, header: Any, bits: Any, compression: Any) -> Any:
    is_short = tf.equal(header, _SHORT_HEADER_BYTES)
    width = tf.where(is_short, little_endian(encoded, 18, 2), little_endian(encoded, 18, 4))
    signed_height = tf.where(is_short, little_endian(encoded, 20, 2), little_endian(encoded, 22, 4))
    height = tf.abs(signed_height)
    size = tf.strings.length(encoded)
    # In 64 bits: a header may claim anything.
    stride = (tf.cast(width, tf.int64) * tf.cast(bits, tf.int64) + 31) // 32 * 4
    needed = stride * tf.cast(height, tf.int64)
    begin = little_endian(encoded, 10, 4)
    check = tf.debugging.Assert(
        tf.reduce_all(
            [
                width > 0,
                height > 0,
                begin >= _FILE_HEADER_BYTES,
                needed <= tf.cast(size, tf.int64) - tf.cast(begin, tf.int64),
            ]
        ),
        ["the BMP is cut off: width, height, bytes:", width, signed_height, size],
    )
    with tf.control_dependencies([check]):
        begin = tf.identity(begin)
    content = tf.io.decode_raw(part(encoded, begin, tf.cast(needed, tf.int32)), tf.uint8)
    rows = tf.reshape(content, tf.stack([height, tf.cast(stride, tf.int32)]))
    # The lowest row comes first, unless the height is negative.
    rows = tf.cond(signed_height > 0, lambda: tf.reverse(rows, [0]), lambda: rows)
    rows.set_shape([None, None])
    return tf.cond(
        bits <= 8,
        lambda: _of_palette(encoded, rows, header, bits, width, begin),
        lambda: _of_masks(encoded, rows, header, bits, width, compression),
    )


def _of_palette(encoded: Any, rows: Any, header: Any, bits: Any, width: Any, begin: Any) -> Any:
    """Returns the colours of pixels of 1, 4 or 8 bits, the leftmost in a byte's highest bits."""
    in_a_byte = 8 // bits
    shifts = 8 - bits * (tf.range(in_a_byte) + 1)
    numbers = tf.bitwise.right_shift(tf.cast(rows, tf.int32)[..., None], shifts)
    numbers = tf.bitwise.bitwise_and(numbers, tf.bitwise.left_shift(1, bits) - 1)
    numbers = tf.reshape(numbers, tf.stack([tf.shape(rows)[0], tf.shape(rows)[1] * in_a_byte]))[:, :width]
    entry_bytes = tf.where(tf.equal(header, _SHORT_HEADER_BYTES), 3, 4)
    place = _FILE_HEADER_BYTES + header
    entries = tf.minimum(tf.bitwise.left_shift(1, bits), tf.maximum(begin - place, 0) // entry_bytes)
    raw = tf.io.decode_raw(part(encoded, place, entries * entry_bytes), tf.uint8)
    palette = tf.gather(tf.reshape(raw, tf.stack([entries, entry_bytes])), _RED_GREEN_BLUE, axis=1)
    check = tf.debugging.Assert(
        tf.reduce_max(numbers) < entries, ["the BMP has a pixel beyond its palette of", entries]
    )
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.gather(palette, numbers), [None, None, 3])


def _of_masks(encoded: Any, rows: Any, header: Any, bits: Any, width: Any, compression: Any) -> Any:
    """Returns the colours of pixels of 16, 24 or 32 bits, whose bits the masks divide among the channels."""
    pixel_bytes = bits // 8
    parts = rows[:, : width * pixel_bytes]
    parts = tf.cast(tf.reshape(parts, tf.stack([tf.shape(rows)[0], width, pixel_bytes])), tf.int64)
    numbers = tf.reduce_sum(
        tf.bitwise.left_shift(parts, tf.cast(8 * tf.range(pixel_bytes), tf.int64)), axis=-1, keepdims=True
    )
    usual = tf.where(
        tf.equal(bits, 16),
        tf.constant([0x7C00, 0x03E0, 0x001F, 0], tf.int64),
        tf.constant([0xFF0000, 0xFF00, 0xFF, 0], tf.int64),
    )
    fields = tf.equal(compression, _BIT_FIELDS)
    written = [
        tf.bitwise.bitwise_and(tf.cast(little_endian(encoded, _MASKS + 4 * place, 4), tf.int64), 0xFFFFFFFF)
        for place in range(4)
    ]
    # The shortest header with bit fields is followed by three masks, no fourth.
    written[3] = tf.where(header >= _HEADER_WITH_ALPHA_BYTES, written[3], tf.constant(0, tf.int64))
    masks = tf.where(fields, tf.stack(written), usual)
    lowest = tf.maximum(tf.bitwise.bitwise_and(masks, -masks), 1)
    values = tf.bitwise.bitwise_and(numbers, masks) // lowest * 255 // tf.maximum(masks // lowest, 1)
    channels = tf.cast(values, tf.uint8)
    channels.set_shape([None, None, 4])
    return tf.cond(tf.equal(masks[3], 0), lambda: channels[..., :3], lambda: on_white(channels))
