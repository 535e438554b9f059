"""Reads the chunks of a PNG file, inside the TensorFlow graph."""

from typing import Any

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.byte_reader import read_big_endian, read_bytes

_SIGNATURE_BYTES = 8
# Length, name and checksum.
_FRAME_BYTES = 12
# With libpng's chunks of 8 KB, 128 MB of pixels; a limit against files crafted to overload a server.
_MAX_CHUNKS = 16_384


def png_chunks(encoded: Any) -> tuple[Any, Any, Any]:
    """Reads all chunks up to the end of the file.

    Returns:
        Scalar tensors: whether there is a tRNS chunk, and the offset (0 = there is none) and the length of
        the eXIf chunk's content.
    """
    size = tf.strings.length(encoded)

    def has_next(offset: Any, *_: Any) -> Any:
        return tf.logical_and(offset >= _SIGNATURE_BYTES, offset <= size - _FRAME_BYTES)

    def next_chunk(offset: Any, transparent: Any, exif_offset: Any, exif_bytes: Any) -> Any:
        length = read_big_endian(encoded, offset, 4)
        name = read_bytes(encoded, offset + 4, 4)
        is_exif = tf.equal(name, b"eXIf")
        # An invalid length, i.e. larger than the file or negative, ends the loop.
        step = tf.where(tf.logical_or(length < 0, length > size), size, length + _FRAME_BYTES)
        return (
            offset + step,
            tf.logical_or(transparent, tf.equal(name, b"tRNS")),
            tf.where(is_exif, offset + 8, exif_offset),
            tf.where(is_exif, length, exif_bytes),
        )

    _, transparent, exif_offset, exif_bytes = tf.while_loop(
        has_next,
        next_chunk,
        (tf.constant(_SIGNATURE_BYTES), tf.constant(False), tf.constant(0), tf.constant(0)),
        maximum_iterations=_MAX_CHUNKS,
    )
    return transparent, exif_offset, exif_bytes
