"""Decodes the first frame of a GIF file on a white background, inside the TensorFlow graph.

TensorFlow decodes transparent pixels to black without an alpha channel, and uses the frame size as the
image size. Therefore the file is changed before it is decoded: the transparent color becomes white in the
color table and its transparency flag is cleared; the frame is then placed on the screen here.

Source of the offsets: GIF89a specification, sections 18 to 23.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import read_byte, read_bytes, read_little_endian
from imgpipe.components.images.graph.transparency import WHITE

_SCREEN_WIDTH, _SCREEN_HEIGHT, _SCREEN_FLAGS, _GLOBAL_TABLE = 6, 8, 10, 13
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_IMAGE_DESCRIPTOR_BYTES = 10
# The limit for blocks before the first frame, against files crafted to overload a server.
_MAX_BLOCKS = 1_000


def decode_gif(encoded: Any) -> Any:
    """Returns the first frame as uint8 [height, width, 3].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the file is damaged.
    """
    control, image = _first_frame(encoded)
    has_control = control > 0
    flags = tf.where(has_control, read_byte(encoded, control + 3), 0)
    transparent = tf.equal(tf.bitwise.bitwise_and(flags, 1), 1)
    screen_flags, image_flags = read_byte(encoded, _SCREEN_FLAGS), read_byte(encoded, image + 9)
    is_local = image_flags >= 0x80
    table = tf.where(is_local, image + _IMAGE_DESCRIPTOR_BYTES, _GLOBAL_TABLE)
    entries = tf.bitwise.left_shift(
        2, tf.bitwise.bitwise_and(tf.where(is_local, image_flags, screen_flags), 7)
    )
    color = tf.where(has_control, read_byte(encoded, control + 6), 0)

    def whiten() -> Any:
        unmarked = _replace(encoded, control + 3, tf.gather(_BYTES, flags - 1), 1)
        # No pixel has a transparent color that is not in the table.
        return tf.cond(
            color < entries,
            lambda: _replace(unmarked, table + 3 * color, tf.constant(b"\xff\xff\xff"), 3),
            lambda: unmarked,
        )

    opaque = tf.cond(transparent, whiten, lambda: tf.identity(encoded))
    # The decoder's output has the size of the largest frame and begins at the screen's corner.
    in_corner = _replace(opaque, image + 1, tf.constant(b"\0\0\0\0"), 4)
    decoded = tf.io.decode_image(in_corner, channels=3, expand_animations=False)
    decoded.set_shape([None, None, 3])
    left, top, width, height = (read_little_endian(encoded, image + field, 2) for field in (1, 3, 5, 7))
    frame = decoded[:height, :width]
    # The area outside the frame is transparent, or else has the table's first color, as in Pillow.
    first = tf.stack([read_byte(encoded, table + channel) for channel in range(3)])
    background = tf.cast(tf.where(transparent, tf.constant([WHITE] * 3), first), tf.uint8)
    screen_width = tf.maximum(read_little_endian(encoded, _SCREEN_WIDTH, 2), left + width)
    screen_height = tf.maximum(read_little_endian(encoded, _SCREEN_HEIGHT, 2), top + height)

    def place_on_screen() -> Any:
        below, beside = screen_height - top - height, screen_width - left - width
        margins = tf.stack([tf.stack([top, below]), tf.stack([left, beside]), tf.constant([0, 0])])
        covered = tf.pad(tf.ones_like(frame, tf.bool), margins)
        return tf.where(covered, tf.pad(frame, margins), background)

    fills = tf.logical_and(tf.equal(screen_width, width), tf.equal(screen_height, height))
    return tf.ensure_shape(tf.cond(fills, lambda: frame, place_on_screen), [None, None, 3])


def _first_frame(encoded: Any) -> tuple[Any, Any]:
    """Returns the offsets of the first frame's graphic control extension (0 if missing) and descriptor."""
    screen_flags = read_byte(encoded, _SCREEN_FLAGS)
    table_bytes = tf.where(
        screen_flags >= 0x80, 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(screen_flags, 7)), 0
    )

    def skip_extension(offset: Any, control: Any) -> Any:
        is_control = tf.equal(read_byte(encoded, offset + 1), _GRAPHIC_CONTROL)
        return _skip_sub_blocks(encoded, offset + 2), tf.where(is_control, offset, control)

    image, control = tf.while_loop(
        lambda offset, _: tf.equal(read_byte(encoded, offset), _EXTENSION),
        skip_extension,
        (_GLOBAL_TABLE + table_bytes, tf.constant(0)),
        maximum_iterations=_MAX_BLOCKS,
    )
    return control, image


def _skip_sub_blocks(encoded: Any, offset: Any) -> Any:
    """Returns the offset after a chain of sub-blocks: each has a length and its bytes; the last is empty."""
    last = tf.while_loop(
        lambda block: read_byte(encoded, block) > 0,
        lambda block: (block + 1 + read_byte(encoded, block),),
        (offset,),
        maximum_iterations=_MAX_BLOCKS,
    )[0]
    return last + 1


def _replace(text: Any, offset: Any, new: Any, length: int) -> Any:
    rest = read_bytes(text, offset + length, tf.strings.length(text))
    return tf.strings.join([read_bytes(text, 0, offset), new, rest])


_BYTES = [bytes([number]) for number in range(256)]
