"""Decodes BMP files, inside the TensorFlow graph.

TensorFlow's decoder supports 24 bits per pixel, mistakes a palette for gray and rejects 1, 4 and 16 bits; it
is used only for 24 bits. Source of the offsets: Microsoft's BITMAPFILEHEADER to BITMAPV5HEADER.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import read_bytes, read_little_endian
from imgpipe.components.images.graph.transparency import composite_on_white

_FILE_HEADER_BYTES = 14
# The header of OS/2 1.x, with sizes of 16 bits and a palette of 3 bytes per color.
_SHORT_HEADER_BYTES = 12
_HEADER_WITH_ALPHA_BYTES = 56
_MASKS_OFFSET = 54
# A palette entry begins with blue.
_RED_GREEN_BLUE = [2, 1, 0]
_UNCOMPRESSED, _BIT_FIELDS = 0, 3


def decode_bmp(encoded: Any) -> Any:
    """Returns the image as uint8 [height, width, 3], with transparency composited on white.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the file is truncated or its rows are
            compressed.
    """
    header = read_little_endian(encoded, _FILE_HEADER_BYTES, 4)
    is_short = tf.equal(header, _SHORT_HEADER_BYTES)
    bits = tf.where(is_short, read_little_endian(encoded, 24, 2), read_little_endian(encoded, 28, 2))
    compression = tf.where(is_short, _UNCOMPRESSED, read_little_endian(encoded, 30, 4))
    supported = tf.logical_or(
        tf.equal(compression, _UNCOMPRESSED),
        tf.logical_and(tf.equal(compression, _BIT_FIELDS), tf.reduce_any(tf.equal(bits, [16, 32]))),
    )
    check = tf.debugging.Assert(
        tf.logical_and(supported, tf.reduce_any(tf.equal(bits, [1, 4, 8, 16, 24, 32]))),
        ["a BMP of this kind cannot be decoded: bits per pixel, compression:", bits, compression],
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
    width = tf.where(is_short, read_little_endian(encoded, 18, 2), read_little_endian(encoded, 18, 4))
    signed_height = tf.where(is_short, read_little_endian(encoded, 20, 2), read_little_endian(encoded, 22, 4))
    height = tf.abs(signed_height)
    size = tf.strings.length(encoded)
    # In 64 bits: a header may contain any numbers.
    stride = (tf.cast(width, tf.int64) * tf.cast(bits, tf.int64) + 31) // 32 * 4
    needed = stride * tf.cast(height, tf.int64)
    begin = read_little_endian(encoded, 10, 4)
    check = tf.debugging.Assert(
        tf.reduce_all(
            [
                width > 0,
                height > 0,
                begin >= _FILE_HEADER_BYTES,
                needed <= tf.cast(size, tf.int64) - tf.cast(begin, tf.int64),
            ]
        ),
        ["the BMP is truncated: width, height, bytes:", width, signed_height, size],
    )
    with tf.control_dependencies([check]):
        begin = tf.identity(begin)
    content = tf.io.decode_raw(read_bytes(encoded, begin, tf.cast(needed, tf.int32)), tf.uint8)
    rows = tf.reshape(content, tf.stack([height, tf.cast(stride, tf.int32)]))
    # The bottom row is first, unless the height is negative.
    rows = tf.cond(signed_height > 0, lambda: tf.reverse(rows, [0]), lambda: rows)
    rows.set_shape([None, None])
    return tf.cond(
        bits <= 8,
        lambda: _decode_palette(encoded, rows, header, bits, width, begin),
        lambda: _decode_masks(encoded, rows, header, bits, width, compression),
    )


def _decode_palette(encoded: Any, rows: Any, header: Any, bits: Any, width: Any, begin: Any) -> Any:
    """Returns the colors of palette indices of 1, 4 or 8 bits, the leftmost in a byte's highest bits."""
    per_byte = 8 // bits
    shifts = 8 - bits * (tf.range(per_byte) + 1)
    indices = tf.bitwise.right_shift(tf.cast(rows, tf.int32)[..., None], shifts)
    indices = tf.bitwise.bitwise_and(indices, tf.bitwise.left_shift(1, bits) - 1)
    indices = tf.reshape(indices, tf.stack([tf.shape(rows)[0], tf.shape(rows)[1] * per_byte]))[:, :width]
    entry_bytes = tf.where(tf.equal(header, _SHORT_HEADER_BYTES), 3, 4)
    palette_offset = _FILE_HEADER_BYTES + header
    entries = tf.minimum(tf.bitwise.left_shift(1, bits), tf.maximum(begin - palette_offset, 0) // entry_bytes)
    raw = tf.io.decode_raw(read_bytes(encoded, palette_offset, entries * entry_bytes), tf.uint8)
    palette = tf.gather(tf.reshape(raw, tf.stack([entries, entry_bytes])), _RED_GREEN_BLUE, axis=1)
    check = tf.debugging.Assert(
        tf.reduce_max(indices) < entries, ["the BMP has an index outside its palette of size", entries]
    )
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.gather(palette, indices), [None, None, 3])


def _decode_masks(encoded: Any, rows: Any, header: Any, bits: Any, width: Any, compression: Any) -> Any:
    """Returns the colors of pixels of 16, 24 or 32 bits, in which masks select the bits of each channel."""
    pixel_bytes = bits // 8
    parts = rows[:, : width * pixel_bytes]
    parts = tf.cast(tf.reshape(parts, tf.stack([tf.shape(rows)[0], width, pixel_bytes])), tf.int64)
    numbers = tf.reduce_sum(
        tf.bitwise.left_shift(parts, tf.cast(8 * tf.range(pixel_bytes), tf.int64)), axis=-1, keepdims=True
    )
    default_masks = tf.where(
        tf.equal(bits, 16),
        tf.constant([0x7C00, 0x03E0, 0x001F, 0], tf.int64),
        tf.constant([0xFF0000, 0xFF00, 0xFF, 0], tf.int64),
    )
    has_masks = tf.equal(compression, _BIT_FIELDS)
    file_masks = [
        tf.bitwise.bitwise_and(
            tf.cast(read_little_endian(encoded, _MASKS_OFFSET + 4 * channel, 4), tf.int64), 0xFFFFFFFF
        )
        for channel in range(4)
    ]
    # The shortest header with bit fields is followed by only three masks.
    file_masks[3] = tf.where(header >= _HEADER_WITH_ALPHA_BYTES, file_masks[3], tf.constant(0, tf.int64))
    masks = tf.where(has_masks, tf.stack(file_masks), default_masks)
    lowest = tf.maximum(tf.bitwise.bitwise_and(masks, -masks), 1)
    values = tf.bitwise.bitwise_and(numbers, masks) // lowest * 255 // tf.maximum(masks // lowest, 1)
    channels = tf.cast(values, tf.uint8)
    channels.set_shape([None, None, 4])
    return tf.cond(tf.equal(masks[3], 0), lambda: channels[..., :3], lambda: composite_on_white(channels))
