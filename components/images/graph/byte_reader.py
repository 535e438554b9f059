"""Reads numbers from a file's bytes, inside the TensorFlow graph."""

from typing import Any

from imgpipe.components.common.tf_import import tf


def read_bytes(encoded: Any, offset: Any, length: Any) -> Any:
    """Returns up to ``length`` bytes from an offset, fewer at the end: string [].

    ``tf.strings.substr`` alone rejects an offset after the end, with an error that contains the whole file.
    """
    return tf.strings.substr(encoded, tf.minimum(offset, tf.strings.length(encoded)), length)


def starts_with(encoded: Any, signature: bytes) -> Any:
    """Returns whether a scalar string begins with a signature: bool []."""
    return tf.equal(tf.strings.substr(encoded, 0, len(signature)), signature)


def read_byte(encoded: Any, offset: Any) -> Any:
    """Returns the byte at an offset as int32 []; 0 after the end."""
    return read_big_endian(encoded, offset, 1)


def read_big_endian(encoded: Any, offset: Any, count: int) -> Any:
    """Returns the number in ``count`` bytes at an offset, most significant byte first, as int32 [].

    Bytes after the end of the string are 0. Four bytes of 2**31 or more are returned as a negative number.
    """
    return _read_number(encoded, offset, count, range(count - 1, -1, -1))


def read_little_endian(encoded: Any, offset: Any, count: int) -> Any:
    """As ``read_big_endian``, but least significant byte first."""
    return _read_number(encoded, offset, count, range(count))


def _read_number(encoded: Any, offset: Any, count: int, powers: range) -> Any:
    text = read_bytes(encoded, offset, count)
    values = tf.cast(tf.io.decode_raw(tf.strings.join([text, b"\0" * count]), tf.uint8)[:count], tf.int32)
    return tf.reduce_sum(tf.bitwise.left_shift(values, [8 * power for power in powers]))
