"""The EXIF orientation of an image file, inside the TensorFlow graph.

It is found where Pillow finds it, whose answer the convert step goes by: the tag 0x0112 of the first image
file directory of the EXIF block, and else, in a JPEG file, ``tiff:Orientation`` of the XMP block. (XMP in
PNG and WebP files, and EXIF as hexadecimal text in a PNG, are not looked for.)
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import big_endian, little_endian, part
from imgpipe.components.images.graph.png_chunks import PngChunks

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4
_ENTRY_BYTES = 12
_EXIF_START = b"Exif\0\0"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
_APP1 = 0xE1
_COMMENT = 0xFE
# By marker: the frames that a picture can begin with, and what may stand before them but APP1: application
# data, comments, tables, the restart interval.
_FRAMES = [0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) for marker in range(256)]
_SKIPPED = [
    marker in (0xC4, 0xDB, 0xDD, _COMMENT) or (0xE0 <= marker <= 0xEF and marker != _APP1)
    for marker in range(256)
]
_FIRST_LOOK_BYTES = 65_536
# The segments before the picture's frame are some ten; a limit for files made to keep a server busy.
_MOST_SEGMENTS = 1_000


def turned_upright(pixels: Any, orientation: Any) -> Any:
    """Returns the pixels as the orientation (int32 [], 1 to 8) says that they are to be seen.

    Args:
        pixels: uint8 [height, width, 3].
        orientation: 2, 4, 5 and 7 are mirrored; 3, 6 and 8 turned; 5 to 8 exchange height and width.
    """

    def is_one_of(*numbers: int) -> Any:
        return tf.reduce_any(tf.equal(orientation, numbers))

    def transpose() -> Any:
        # Not tf.transpose: of whole numbers, TensorFlow logs in every process that oneDNN has none.
        height, width = tf.unstack(tf.shape(pixels)[:2])
        numbers = tf.range(height)[None, :] * width + tf.range(width)[:, None]
        return tf.gather(tf.reshape(pixels, [-1, 3]), numbers)

    def turn() -> Any:
        transposed = tf.cond(orientation >= 5, transpose, lambda: pixels)
        transposed.set_shape([None, None, 3])
        mirrored = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(transposed, [1]), lambda: transposed)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(mirrored, [0]), lambda: mirrored)

    return tf.cond(tf.equal(orientation, UPRIGHT), lambda: pixels, turn)


def has_no_app1_segment(encoded: Any) -> Any:
    """Returns whether a JPEG file surely has no EXIF or XMP block before its picture: bool [].

    A tenth of the work of ``jpeg_orientation``, for the many files without; False where it would take more.
    """
    raw = tf.io.decode_raw(part(encoded, 0, _FIRST_LOOK_BYTES), tf.uint8)
    size = tf.size(raw)
    skipped, frames = tf.constant(_SKIPPED), tf.constant(_FRAMES)

    def more(place: Any, marker: Any) -> Any:
        return tf.logical_and(tf.gather(skipped, marker), place <= size - 4)

    def next_segment(place: Any, _: Any) -> Any:
        head = tf.cast(raw[place : place + 4], tf.int32)
        # Anything but 255 and a marker ends the walk: 1 is none that is known here.
        marker = tf.where(tf.equal(head[0], 0xFF), head[1], 1)
        return place + 2 + head[2] * 256 + head[3], marker

    _, marker = tf.while_loop(
        more, next_segment, (tf.constant(2), tf.constant(_COMMENT)), maximum_iterations=_MOST_SEGMENTS
    )
    return tf.gather(frames, marker)


def jpeg_orientation(encoded: Any) -> Any:
    """Returns the orientation of a JPEG file, int32 []; 1 if there is none or it makes no sense."""
    size = tf.strings.length(encoded)

    def more(place: Any, *_: Any) -> Any:
        return tf.logical_and(place > 0, place < size - 4)

    def next_segment(place: Any, exif_place: Any, exif_bytes: Any, xmp_place: Any, xmp_bytes: Any) -> Any:
        # Marker and length in one number would be negative; the first byte of a marker is 255.
        head = big_endian(encoded, place, 4)
        marker = tf.bitwise.bitwise_and(tf.bitwise.right_shift(head, 16), 0xFF)
        length = tf.bitwise.bitwise_and(head, 0xFFFF)
        is_marker = tf.equal(tf.bitwise.bitwise_and(tf.bitwise.right_shift(head, 24), 0xFF), 0xFF)
        is_application = tf.logical_and(is_marker, tf.equal(marker, _APP1))
        text = part(encoded, place + 4, len(_XMP_START))
        is_exif = tf.logical_and(is_application, tf.equal(part(text, 0, 6), _EXIF_START))
        is_exif = tf.logical_and(is_exif, tf.equal(exif_place, 0))
        is_xmp = tf.logical_and(is_application, tf.equal(text, _XMP_START))
        # C0 to CF but C4, C8 and CC begin a frame, DA the scan: what describes the picture stands before.
        is_frame = tf.logical_and(
            tf.equal(tf.bitwise.bitwise_and(marker, 0xF0), 0xC0),
            tf.not_equal(tf.bitwise.bitwise_and(marker, 0x03), 0),
        )
        ends = tf.logical_or(tf.logical_or(is_frame, tf.equal(marker, 0xC0)), tf.equal(marker, 0xDA))
        # Bytes between segments, and 255 as a filler, are passed over.
        is_filler = tf.logical_or(tf.logical_not(is_marker), tf.equal(marker, 0xFF))
        following = tf.where(is_filler, place + 1, tf.where(ends, 0, place + 2 + length))
        return (
            following,
            tf.where(is_exif, place + 4 + len(_EXIF_START), exif_place),
            tf.where(is_exif, length - 2 - len(_EXIF_START), exif_bytes),
            tf.where(is_xmp, place + 4 + len(_XMP_START), xmp_place),
            tf.where(is_xmp, length - 2 - len(_XMP_START), xmp_bytes),
        )

    zero = tf.constant(0)
    _, exif_place, exif_bytes, xmp_place, xmp_bytes = tf.while_loop(
        more,
        next_segment,
        (tf.constant(2), zero, zero, zero, zero),
        maximum_iterations=_MOST_SEGMENTS,
    )
    of_exif = tf.cond(
        exif_place > 0, lambda: _tag_of_block(encoded, exif_place, exif_bytes), lambda: tf.constant(0)
    )
    of_either = tf.cond(
        tf.logical_and(tf.equal(of_exif, 0), xmp_place > 0),
        lambda: _tag_of_xmp(part(encoded, xmp_place, tf.maximum(xmp_bytes, 0))),
        lambda: of_exif,
    )
    return _sensible(of_either)


def png_orientation(encoded: Any, chunks: PngChunks) -> Any:
    """Returns the orientation of a PNG file, int32 []; 1 if there is none or it makes no sense."""
    return _sensible(
        tf.cond(
            chunks.exif_place > 0,
            lambda: _tag_of_block(encoded, chunks.exif_place, chunks.exif_bytes),
            lambda: tf.constant(0),
        )
    )


def webp_orientation(encoded: Any) -> Any:
    """Returns the orientation of a WebP file, int32 []; 1 if there is none or it makes no sense."""
    size = tf.strings.length(encoded)

    def more(place: Any, *_: Any) -> Any:
        return tf.logical_and(place > 0, place < size - 8)

    def next_chunk(place: Any, exif_place: Any, exif_bytes: Any) -> Any:
        length = little_endian(encoded, place + 4, 4)
        is_exif = tf.equal(part(encoded, place, 4), b"EXIF")
        # Chunks are padded to an even length; one that claims more than the file ends the walk.
        sensible = tf.logical_and(length >= 0, length < size)
        following = tf.where(sensible, place + 8 + length + length % 2, 0)
        return following, tf.where(is_exif, place + 8, exif_place), tf.where(is_exif, length, exif_bytes)

    _, exif_place, exif_bytes = tf.while_loop(
        more,
        next_chunk,
        (tf.constant(12), tf.constant(0), tf.constant(0)),
        maximum_iterations=_MOST_SEGMENTS,
    )

    def tag() -> Any:
        # Some writers begin the block as in a JPEG file.
        prefixed = tf.equal(part(encoded, exif_place, 6), _EXIF_START)
        skipped = tf.where(prefixed, len(_EXIF_START), 0)
        return _tag_of_block(encoded, exif_place + skipped, exif_bytes - skipped)

    return _sensible(tf.cond(exif_place > 0, tag, lambda: tf.constant(0)))


def _tag_of_block(encoded: Any, place: Any, length: Any) -> Any:
    """Returns the value of the orientation's tag in an EXIF block, int32 []; 0 if it is not there."""
    block = part(encoded, place, tf.maximum(length, 0))
    size = tf.strings.length(block)
    is_little = tf.equal(part(block, 0, 2), b"II")
    known = tf.logical_or(is_little, tf.equal(part(block, 0, 2), b"MM"))

    def number_at(where: Any, count: int) -> Any:
        return tf.where(is_little, little_endian(block, where, count), big_endian(block, where, count))

    directory = number_at(4, 4)
    inside = tf.logical_and(known, tf.logical_and(directory >= 8, directory <= size - 2))
    directory = tf.where(inside, directory, size)
    first = tf.minimum(directory + 2, size)
    count = tf.minimum(number_at(directory, 2), (size - first) // _ENTRY_BYTES)
    raw = part(block, first, count * _ENTRY_BYTES)
    entries = tf.cast(tf.reshape(tf.io.decode_raw(raw, tf.uint8), [-1, _ENTRY_BYTES]), tf.int32)

    def column(begin: int, count: int) -> Any:
        """The numbers of ``count`` bytes that stand at ``begin`` in the entries: int32 [entries]."""
        powers = [2 ** (8 * power) for power in range(count)]
        weights = tf.where(is_little, tf.constant(powers), tf.constant(powers[::-1]))
        return tf.reduce_sum(entries[:, begin : begin + count] * weights, axis=1)

    kind = column(2, 2)
    # A number of four bytes beyond 2**24 has no meaning here: three are read, and the fourth must be 0.
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
    # Of several, the last counts.
    return tf.concat([[0], tf.boolean_mask(value, found)], axis=0)[-1]


def _tag_of_xmp(block: Any) -> Any:
    """Returns the first ``tiff:Orientation`` of an XMP block, int32 []; 0 if there is none."""
    pattern = r'(?s)^.*?tiff:Orientation(?:="|>)([0-9]).*$'
    digit = tf.strings.regex_replace(block, pattern, r"\1", replace_global=False)
    return tf.cond(
        tf.strings.regex_full_match(digit, "[0-9]"),
        lambda: tf.strings.to_number(digit, tf.int32),
        lambda: tf.constant(0),
    )


def _sensible(orientation: Any) -> Any:
    return tf.where(tf.logical_and(orientation >= 1, orientation <= 8), orientation, UPRIGHT)
