"""Decodes the first frame of a GIF file on white, inside the TensorFlow graph.

TensorFlow shows transparent pixels as black and does not say which they are, and it takes the size of the
frames for that of the screen. So the file is changed before it is decoded: the transparent colour becomes
white in the colour table and is no longer marked as transparent, and the frame is laid on the screen here.

Source of the places: GIF89a specification, sections 18 to 23.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import byte_at, little_endian, part
from imgpipe.components.images.graph.transparency import WHITE

_SCREEN_WIDTH, _SCREEN_HEIGHT, _SCREEN_FLAGS, _GLOBAL_TABLE = 6, 8, 10, 13
_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9
_IMAGE_DESCRIPTOR_BYTES = 10
# Blocks before the first frame: a limit for files made to keep a server busy.
_MOST_BLOCKS = 1_000


def decode_gif(encoded: Any) -> Any:
    """Returns the first frame as uint8 [height, width, 3].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the file is damaged.
    """
    control, image = _first_frame(encoded)
    has_control = control > 0
    flags = tf.where(has_control, byte_at(encoded, control + 3), 0)
    transparent = tf.equal(tf.bitwise.bitwise_and(flags, 1), 1)
    screen_flags, image_flags = byte_at(encoded, _SCREEN_FLAGS), byte_at(encoded, image + 9)
    is_local = image_flags >= 0x80
    table = tf.where(is_local, image + _IMAGE_DESCRIPTOR_BYTES, _GLOBAL_TABLE)
    entries = tf.bitwise.left_shift(
        2, tf.bitwise.bitwise_and(tf.where(is_local, image_flags, screen_flags), 7)
    )
    colour = tf.where(has_control, byte_at(encoded, control + 6), 0)

    def whitened() -> Any:
        unmarked = _replaced(encoded, control + 3, tf.gather(_BYTES, flags - 1), 1)
        # A transparent colour that is not in the table is no pixel's.
        return tf.cond(
            colour < entries,
            lambda: _replaced(unmarked, table + 3 * colour, tf.constant(b"\xff\xff\xff"), 3),
            lambda: unmarked,
        )

    opaque = tf.cond(transparent, whitened, lambda: tf.identity(encoded))
    # The decoder's picture is as large as the largest frame and begins at the screen's corner.
    in_corner = _replaced(opaque, image + 1, tf.constant(b"\0\0\0\0"), 4)
    decoded = tf.io.decode_image(in_corner, channels=3, expand_animations=False)
    decoded.set_shape([None, None, 3])
    left, top, width, height = (little_endian(encoded, image + place, 2) for place in (1, 3, 5, 7))
    frame = decoded[:height, :width]
    # What the frame leaves free is transparent, or else of the table's first colour, as Pillow has it.
    first = tf.stack([byte_at(encoded, table + place) for place in range(3)])
    ground = tf.cast(tf.where(transparent, tf.constant([WHITE] * 3), first), tf.uint8)
    screen_width = tf.maximum(little_endian(encoded, _SCREEN_WIDTH, 2), left + width)
    screen_height = tf.maximum(little_endian(encoded, _SCREEN_HEIGHT, 2), top + height)

    def on_screen() -> Any:
        below, beside = screen_height - top - height, screen_width - left - width
        margins = tf.stack([tf.stack([top, below]), tf.stack([left, beside]), tf.constant([0, 0])])
        covered = tf.pad(tf.ones_like(frame, tf.bool), margins)
        return tf.where(covered, tf.pad(frame, margins), ground)

    fills = tf.logical_and(tf.equal(screen_width, width), tf.equal(screen_height, height))
    return tf.ensure_shape(tf.cond(fills, lambda: frame, on_screen), [None, None, 3])


def _first_frame(encoded: Any) -> tuple[Any, Any]:
    """Returns the places of the first frame's graphic control extension (0 if it has none) and descriptor."""
    screen_flags = byte_at(encoded, _SCREEN_FLAGS)
    table_bytes = tf.where(
        screen_flags >= 0x80, 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(screen_flags, 7)), 0
    )

    def more(place: Any, _: Any) -> Any:
        return tf.equal(byte_at(encoded, place), _EXTENSION)

    def behind_extension(place: Any, control: Any) -> Any:
        is_control = tf.equal(byte_at(encoded, place + 1), _GRAPHIC_CONTROL)
        return _behind_sub_blocks(encoded, place + 2), tf.where(is_control, place, control)

    image, control = tf.while_loop(
        more,
        behind_extension,
        (_GLOBAL_TABLE + table_bytes, tf.constant(0)),
        maximum_iterations=_MOST_BLOCKS,
    )
    return control, image


def _behind_sub_blocks(encoded: Any, place: Any) -> Any:
    """Returns the place behind a chain of sub-blocks: each its length and as many bytes, the last empty."""
    last = tf.while_loop(
        lambda here: byte_at(encoded, here) > 0,
        lambda here: (here + 1 + byte_at(encoded, here),),
        (place,),
        maximum_iterations=_MOST_BLOCKS,
    )[0]
    return last + 1


def _replaced(text: Any, place: Any, new: Any, length: int) -> Any:
    behind = part(text, place + length, tf.strings.length(text))
    return tf.strings.join([part(text, 0, place), new, behind])


_BYTES = [bytes([number]) for number in range(256)]
