"""Numbers out of a file's bytes, inside the TensorFlow graph."""

from typing import Any

from imgpipe.components.common.tf_import import tf


def part(encoded: Any, place: Any, length: Any) -> Any:
    """Returns up to ``length`` bytes from a place on, fewer at the end: string [].

    ``tf.strings.substr`` alone refuses a place behind the end, in an error that holds the whole file.
    """
    return tf.strings.substr(encoded, tf.minimum(place, tf.strings.length(encoded)), length)


def starts_with(encoded: Any, signature: bytes) -> Any:
    """Returns whether a scalar string begins with a signature: bool []."""
    return tf.equal(part(encoded, 0, len(signature)), signature)


def byte_at(encoded: Any, place: Any) -> Any:
    """Returns the byte at a place as int32 []; 0 behind the end."""
    return big_endian(encoded, place, 1)


def big_endian(encoded: Any, place: Any, count: int) -> Any:
    """Returns the number of ``count`` bytes at a place, most significant first, as int32 [].

    Bytes behind the end of the string are 0. Of four bytes, numbers beyond 2**31 come out negative.
    """
    return _number(encoded, place, count, range(count - 1, -1, -1))


def little_endian(encoded: Any, place: Any, count: int) -> Any:
    """Returns the number of ``count`` bytes at a place, least significant first, as ``big_endian`` does."""
    return _number(encoded, place, count, range(count))


def _number(encoded: Any, place: Any, count: int, powers: range) -> Any:
    text = part(encoded, place, count)
    values = tf.cast(tf.io.decode_raw(tf.strings.join([text, b"\0" * count]), tf.uint8)[:count], tf.int32)
    return tf.reduce_sum(tf.bitwise.left_shift(values, [8 * power for power in powers]))
