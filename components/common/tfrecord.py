"""Reading and writing TFRecord files without TensorFlow.

A record is its length (uint64, little-endian), the masked CRC-32C of these eight bytes, the data,
and the masked CRC-32C of the data (source: tensorflow/core/lib/io/record_writer.h). TensorFlow
reads these files as its own.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from components.common.errors import InvalidDataError, MissingInputError

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# tf.Example cannot be larger: protocol buffers end at 2 GiB.
_LARGEST_RECORD_BYTES = 2**31
_MASK_DELTA = 0xA282EAD8


def framed_record(data: bytes) -> bytes:
    """Returns a record as it stands in a file: length, data and their checksums."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends one record to an open binary file."""
    file.write(framed_record(data))


def read_records(path: Path, shown: str = "") -> Iterator[tuple[int, bytes]]:
    """Yields the byte offset and the data of every record of an uncompressed TFRecord file.

    Args:
        path: The file.
        shown: What errors call it, when ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: at the first damaged record, with its number (from 0) and its offset.
    """
    shown = shown or str(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise MissingInputError(f"cannot read {shown}: {error.strerror}", remedy="check the path") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        number = 0
        while header := file.read(_HEADER_BYTES):
            where = f"{shown}, record {number}, byte offset {offset}"
            if len(header) < _HEADER_BYTES:
                raise _damaged("the file ends inside a record's header", where)
            length_bytes, length_crc = header[:8], header[8:]
            if _masked_crc(length_bytes) != length_crc:
                hint = " (no TFRecord file, or a compressed one?)" if number == 0 else ""
                raise _damaged(f"the record's length does not match its checksum{hint}", where)
            length = struct.unpack("<Q", length_bytes)[0]
            if length > _LARGEST_RECORD_BYTES:
                raise _damaged(f"the record claims {length:,} bytes", where)
            if length > size - offset:
                # Before memory is taken for it.
                raise _damaged("the file ends inside a record", where)
            data = file.read(length)
            footer = file.read(_FOOTER_BYTES)
            if len(data) < length or len(footer) < _FOOTER_BYTES:
                raise _damaged("the file ends inside a record", where)
            if _masked_crc(data) != footer:
                raise _damaged("the record's data does not match its checksum", where)
            yield offset, data
            offset += _HEADER_BYTES + length + _FOOTER_BYTES
            number += 1


def record_offsets(path: Path) -> NDArray[np.int64]:
    """Returns where each record of an uncompressed TFRecord file begins, and last where the file ends.

    Only the headers are read, a few bytes of each record, whatever the size of the file.

    Args:
        path: The file.

    Returns:
        int64 [records + 1], in bytes.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: if a record's length is damaged, or the file ends inside a record.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise MissingInputError(f"cannot read {path}: {error.strerror}", remedy="check the path") from None
    offsets = [0]
    try:
        size = os.fstat(descriptor).st_size
        if hasattr(os, "posix_fadvise"):
            # Otherwise the system reads ahead what is skipped.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        while offsets[-1] < size:
            header = os.pread(descriptor, _HEADER_BYTES, offsets[-1])
            if _masked_crc(header[:8]) != header[8:]:
                where = f"{path}, record {len(offsets) - 1}, byte offset {offsets[-1]}"
                raise _damaged("the record's length does not match its checksum", where)
            offsets.append(offsets[-1] + _HEADER_BYTES + struct.unpack("<Q", header[:8])[0] + _FOOTER_BYTES)
    finally:
        os.close(descriptor)
    if offsets[-1] > size:
        where = f"{path}, record {len(offsets) - 2}, byte offset {offsets[-2]}"
        raise _damaged("the file ends inside a record", where)
    return np.array(offsets, np.int64)


def read_record_at(descriptor: int, offset: int, end: int, *, where: str) -> bytes:
    """Returns the data of one record of an open file; other threads may read the same file.

    Args:
        descriptor: Of the file.
        offset: Where the record begins, in bytes.
        end: Where the next one begins.
        where: File and record, for the error message.

    Raises:
        InvalidDataError: if the data does not match its checksum.
    """
    framed = os.pread(descriptor, end - offset, offset)
    data, footer = framed[_HEADER_BYTES:-_FOOTER_BYTES], framed[-_FOOTER_BYTES:]
    if len(framed) < end - offset or _masked_crc(data) != footer:
        raise _damaged("the record's data does not match its checksum", where)
    return data


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _damaged(problem: str, where: str) -> InvalidDataError:
    return InvalidDataError(
        problem, where=where, remedy="write the file again: it was cut off or damaged, or is no TFRecord file"
    )
