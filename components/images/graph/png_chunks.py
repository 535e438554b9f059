"""Walks the chunks of a PNG file, inside the TensorFlow graph."""

from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import big_endian, part

_SIGNATURE_BYTES = 8
# Length, name and checksum.
_FRAME_BYTES = 12
# At 8 KB a chunk, as libpng writes them, 128 MB of pixels: a limit for files made to keep a server busy.
_MOST_CHUNKS = 16_384


@dataclass(frozen=True)
class PngChunks:
    """What of a PNG file's chunks matters besides the pixels; scalar tensors.

    Attributes:
        has_transparent_colour: bool: whether there is a chunk tRNS.
        exif_place: int32: where the content of the chunk eXIf begins; 0 if there is none.
        exif_bytes: int32: how long it is.
    """

    has_transparent_colour: Any
    exif_place: Any
    exif_bytes: Any


def png_chunks(encoded: Any) -> PngChunks:
    """Looks at all chunks up to the end of the file."""
    size = tf.strings.length(encoded)

    def more(place: Any, *_: Any) -> Any:
        return tf.logical_and(place >= _SIGNATURE_BYTES, place <= size - _FRAME_BYTES)

    def next_chunk(place: Any, transparent: Any, exif_place: Any, exif_bytes: Any) -> Any:
        length = big_endian(encoded, place, 4)
        name = part(encoded, place + 4, 4)
        is_exif = tf.equal(name, b"eXIf")
        # A length beyond the file, or one that is negative here, ends the walk.
        step = tf.where(tf.logical_or(length < 0, length > size), size, length + _FRAME_BYTES)
        return (
            place + step,
            tf.logical_or(transparent, tf.equal(name, b"tRNS")),
            tf.where(is_exif, place + 8, exif_place),
            tf.where(is_exif, length, exif_bytes),
        )

    _, transparent, exif_place, exif_bytes = tf.while_loop(
        more,
        next_chunk,
        (tf.constant(_SIGNATURE_BYTES), tf.constant(False), tf.constant(0), tf.constant(0)),
        maximum_iterations=_MOST_CHUNKS,
    )
    return PngChunks(transparent, exif_place, exif_bytes)
