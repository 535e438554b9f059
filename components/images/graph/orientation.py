"""The EXIF orientation of an image file, inside the TensorFlow graph.

It is read as by Pillow, which the convert step uses: from the tag 0x0112 of the first image file directory
of the EXIF block, or else, in a JPEG file, from ``tiff:Orientation`` of the XMP block. (XMP in PNG and WebP
files, and EXIF as hexadecimal text in a PNG, are not supported.)
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import read_big_endian, read_bytes, read_little_endian

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4
_ENTRY_BYTES = 12
_EXIF_START = b"Exif\0\0"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
_APP1 = 0xE1
_COMMENT = 0xFE
_SCAN = 0xDA
# By marker: the start-of-frame segments, and the segments other than APP1 that may precede them:
# application data, comments, tables, the restart interval.
_FRAMES = [0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) for marker in range(256)]
_SKIPPED = [
    marker in (0xC4, 0xDB, 0xDD, _COMMENT) or (0xE0 <= marker <= 0xEF and marker != _APP1)
    for marker in range(256)
]
# Metadata is before the frame and the scan.
_ENDS = [frame or marker == _SCAN for marker, frame in enumerate(_FRAMES)]
_SCANNED_BYTES = 65_536
# A file has about ten segments before its frame; a limit against files crafted to overload a server.
_MAX_SEGMENTS = 1_000


def rotate_upright(pixels: Any, orientation: Any) -> Any:
    """Rotates and mirrors pixels so that an image with this orientation (int32 [], 1 to 8) is upright.

    Args:
        pixels: uint8 [height, width, 3].
        orientation: 2, 4, 5 and 7 are mirrored; 3, 6 and 8 rotated; 5 to 8 swap height and width.
    """

    def is_one_of(*numbers: int) -> Any:
        return tf.reduce_any(tf.equal(orientation, numbers))

    def transpose() -> Any:
        # Not tf.transpose: for integers, TensorFlow logs in every process that oneDNN does not support it.
        height, width = tf.unstack(tf.shape(pixels)[:2])
        indices = tf.range(height)[None, :] * width + tf.range(width)[:, None]
        return tf.gather(tf.reshape(pixels, [-1, 3]), indices)

    def rotate() -> Any:
        transposed = tf.cond(orientation >= 5, transpose, lambda: pixels)
        transposed.set_shape([None, None, 3])
        mirrored = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(transposed, [1]), lambda: transposed)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(mirrored, [0]), lambda: mirrored)

    return tf.cond(tf.equal(orientation, UPRIGHT), lambda: pixels, rotate)


def has_no_app1_segment(encoded: Any) -> Any:
    """Returns whether a JPEG file certainly has no EXIF or XMP block before its frame: bool [].

    A tenth of the work of ``jpeg_orientation``, for the many files without. False if that is uncertain.
    """
    raw = tf.io.decode_raw(read_bytes(encoded, 0, _SCANNED_BYTES), tf.uint8)
    size = tf.size(raw)
    skipped, frames = tf.constant(_SKIPPED), tf.constant(_FRAMES)

    def next_segment(offset: Any, _: Any) -> Any:
        head = tf.cast(raw[offset : offset + 4], tf.int32)
        # Ends the loop unless there is 255 and a marker: 1 is not a known marker.
        marker = tf.where(tf.equal(head[0], 0xFF), head[1], 1)
        return offset + 2 + head[2] * 256 + head[3], marker

    _, marker = tf.while_loop(
        lambda offset, marker: tf.logical_and(tf.gather(skipped, marker), offset <= size - 4),
        next_segment,
        (tf.constant(2), tf.constant(_COMMENT)),
        maximum_iterations=_MAX_SEGMENTS,
    )
    return tf.gather(frames, marker)


def jpeg_orientation(encoded: Any) -> Any:
    """Returns the orientation of a JPEG file, int32 []; 1 if it is missing or invalid."""
    size = tf.strings.length(encoded)

    def has_next(offset: Any, *_: Any) -> Any:
        return tf.logical_and(offset > 0, offset < size - 4)

    def next_segment(offset: Any, exif_offset: Any, exif_bytes: Any, xmp_offset: Any, xmp_bytes: Any) -> Any:
        # The number is negative, because the first byte of a marker is 255.
        head = read_big_endian(encoded, offset, 4)
        marker = tf.bitwise.bitwise_and(tf.bitwise.right_shift(head, 16), 0xFF)
        length = tf.bitwise.bitwise_and(head, 0xFFFF)
        is_marker = tf.equal(tf.bitwise.bitwise_and(tf.bitwise.right_shift(head, 24), 0xFF), 0xFF)
        is_application = tf.logical_and(is_marker, tf.equal(marker, _APP1))
        text = read_bytes(encoded, offset + 4, len(_XMP_START))
        is_exif = tf.logical_and(is_application, tf.equal(read_bytes(text, 0, 6), _EXIF_START))
        is_exif = tf.logical_and(is_exif, tf.equal(exif_offset, 0))
        is_xmp = tf.logical_and(is_application, tf.equal(text, _XMP_START))
        ends = tf.gather(tf.constant(_ENDS), marker)
        # Bytes between segments, and fill bytes of 255, are skipped.
        is_filler = tf.logical_or(tf.logical_not(is_marker), tf.equal(marker, 0xFF))
        following = tf.where(is_filler, offset + 1, tf.where(ends, 0, offset + 2 + length))
        return (
            following,
            tf.where(is_exif, offset + 4 + len(_EXIF_START), exif_offset),
            tf.where(is_exif, length - 2 - len(_EXIF_START), exif_bytes),
            tf.where(is_xmp, offset + 4 + len(_XMP_START), xmp_offset),
            tf.where(is_xmp, length - 2 - len(_XMP_START), xmp_bytes),
        )

    zero = tf.constant(0)
    _, exif_offset, exif_bytes, xmp_offset, xmp_bytes = tf.while_loop(
        has_next,
        next_segment,
        (tf.constant(2), zero, zero, zero, zero),
        maximum_iterations=_MAX_SEGMENTS,
    )
    exif_value = tf.cond(
        exif_offset > 0, lambda: _read_exif(encoded, exif_offset, exif_bytes), lambda: tf.constant(0)
    )
    value = tf.cond(
        tf.logical_and(tf.equal(exif_value, 0), xmp_offset > 0),
        lambda: _read_xmp(read_bytes(encoded, xmp_offset, tf.maximum(xmp_bytes, 0))),
        lambda: exif_value,
    )
    return _valid_or_upright(value)


def png_orientation(encoded: Any, exif_offset: Any, exif_bytes: Any) -> Any:
    """Returns the orientation of a PNG file, int32 []; 1 if it is missing or invalid."""
    exif_value = tf.cond(
        exif_offset > 0, lambda: _read_exif(encoded, exif_offset, exif_bytes), lambda: tf.constant(0)
    )
    return _valid_or_upright(exif_value)


def webp_orientation(encoded: Any) -> Any:
    """Returns the orientation of a WebP file, int32 []; 1 if it is missing or invalid."""
    size = tf.strings.length(encoded)

    def has_next(offset: Any, *_: Any) -> Any:
        return tf.logical_and(offset > 0, offset < size - 8)

    def next_chunk(offset: Any, exif_offset: Any, exif_bytes: Any) -> Any:
        length = read_little_endian(encoded, offset + 4, 4)
        is_exif = tf.equal(read_bytes(encoded, offset, 4), b"EXIF")
        # Chunks are padded to an even length; one that exceeds the file ends the loop.
        valid = tf.logical_and(length >= 0, length < size)
        following = tf.where(valid, offset + 8 + length + length % 2, 0)
        return following, tf.where(is_exif, offset + 8, exif_offset), tf.where(is_exif, length, exif_bytes)

    _, exif_offset, exif_bytes = tf.while_loop(
        has_next,
        next_chunk,
        (tf.constant(12), tf.constant(0), tf.constant(0)),
        maximum_iterations=_MAX_SEGMENTS,
    )

    def read() -> Any:
        # Some writers add the prefix of a JPEG file's block.
        prefixed = tf.equal(read_bytes(encoded, exif_offset, 6), _EXIF_START)
        skipped = tf.where(prefixed, len(_EXIF_START), 0)
        return _read_exif(encoded, exif_offset + skipped, exif_bytes - skipped)

    return _valid_or_upright(tf.cond(exif_offset > 0, read, lambda: tf.constant(0)))


def _read_exif(encoded: Any, offset: Any, length: Any) -> Any:
    """Returns the value of the orientation tag in an EXIF block, int32 []; 0 if it is missing."""
    block = read_bytes(encoded, offset, tf.maximum(length, 0))
    size = tf.strings.length(block)
    is_little = tf.equal(read_bytes(block, 0, 2), b"II")
    has_byte_order = tf.logical_or(is_little, tf.equal(read_bytes(block, 0, 2), b"MM"))

    def read_number(offset: Any, count: int) -> Any:
        return tf.where(
            is_little, read_little_endian(block, offset, count), read_big_endian(block, offset, count)
        )

    directory = read_number(4, 4)
    inside = tf.logical_and(has_byte_order, tf.logical_and(directory >= 8, directory <= size - 2))
    directory = tf.where(inside, directory, size)
    first = tf.minimum(directory + 2, size)
    count = tf.minimum(read_number(directory, 2), (size - first) // _ENTRY_BYTES)
    raw = read_bytes(block, first, count * _ENTRY_BYTES)
    entries = tf.cast(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [-1, _ENTRY_BYTES]), tf.int32)

    def column(begin: int, count: int) -> Any:
        """Returns the numbers of ``count`` bytes at ``begin`` in each entry: int32 [entries]."""
        powers = [2 ** (8 * power) for power in range(count)]
        weights = tf.where(is_little, tf.constant(powers), tf.constant(powers[::-1]))
        return tf.reduce_sum(entries[:, begin : begin + count] * weights, axis=1)

    kind = column(2, 2)
    # Four-byte numbers above 2**24 are invalid here: three bytes are read, and the fourth must be 0.
    single = tf.where(
        is_little,
        tf.logical_and(tf.equal(column(4, 3), 1), tf.equal(entries[:, 7], 0)),
        tf.logical_and(tf.equal(entries[:, 4], 0), tf.equal(column(5, 3), 1)),
    )
    short = column(8, 2)
    long_rest = tf.where(is_little, column(10, 2), column(8, 2))
    long_value = tf.where(tf.equal(long_rest, 0), tf.where(is_little, column(8, 2), column(10, 2)), 0)
    value = tf.where(tf.equal(kind, _SHORT), short, tf.where(tf.equal(kind, _LONG), long_value, 0))
    found = tf.logical_and(tf.equal(column(0, 2), _ORIENTATION_TAG), single)
    # The last of several tags is used.
    return tf.concat([[0], tf.boolean_mask(value, found)], axis=0)[-1]


def _read_xmp(block: Any) -> Any:
    """Returns the first ``tiff:Orientation`` of an XMP block, int32 []; 0 if it is missing."""
    pattern = r'(?s)^.*?tiff:Orientation(?:="|>)([0-9]).*$'
    digit = tf.strings.regex_replace(block, pattern, r"\1", replace_global=False)
    return tf.cond(
        tf.strings.regex_full_match(digit, "[0-9]"),
        lambda: tf.strings.to_number(digit, tf.int32),
        lambda: tf.constant(0),
    )


def _valid_or_upright(orientation: Any) -> Any:
    return tf.where(tf.logical_and(orientation >= 1, orientation <= 8), orientation, UPRIGHT)
