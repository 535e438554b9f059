"""Reads and writes TFRecord files without TensorFlow.

A record is its length (uint64, little-endian), the masked CRC-32C of these eight bytes, the data,
and the masked CRC-32C of the data (source: tensorflow/core/lib/io/record_writer.h). The files are
interchangeable with TensorFlow's.
"""

import base64
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError, must_be_readable
from imgpipe.components.common.plural import plural

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# The limit of a tf.Example: protocol buffers are smaller than 2 GiB.
_MAX_RECORD_BYTES = 2**31
_MASK_DELTA = 0xA282EAD8
# Enough that the overhead of passing a block to a thread is small compared with the work on its records.
_BLOCK_BYTES = 2_000_000
# The first bytes of gzip and zlib files, which TensorFlow reads only with the option compression_type.
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_UNCOMPRESS = "decompress it, e.g. with gzip -d: only uncompressed files can be read"
_WRITE_AGAIN = "write the file again: it is truncated, damaged or not a TFRecord file"
_WRONG_LENGTH = "the record's length does not match its checksum"
_WRONG_DATA = "the record's data does not match its checksum"
_TRUNCATED = "the file ends inside a record"


def starts_with_record(content: bytes) -> bool:
    """Whether a file's first bytes are a record's header: a length and its checksum."""
    return len(content) >= _HEADER_BYTES and _masked_crc(content[:8]) == content[8:_HEADER_BYTES]


def frame_record(data: bytes) -> bytes:
    """Returns a record in the format of a file: length, data and their checksums."""
    return b"".join(frame_parts((data,)))


def frame_parts(parts: Sequence[bytes]) -> list[bytes]:
    """Returns the parts of a framed record, given the parts of its data, so that joining copies them once."""
    length = struct.pack("<Q", sum(map(len, parts)))
    return [length, _masked_crc(length), *parts, _masked_crc(*parts)]


def framed_size(length: int) -> int:
    """Returns the size of a record with ``length`` bytes of data in a file."""
    return _HEADER_BYTES + length + _FOOTER_BYTES


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends one record to an open binary file."""
    file.write(frame_record(data))


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """The location of a record in its file.

    Attributes:
        number: From 0.
        offset: Of its header, in bytes.
        length: Of its data, in bytes.
    """

    number: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the next record."""
        return self.offset + framed_size(self.length)


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Some whole records that were read together.

    Attributes:
        locations: Of the records in their file.
        display_name: The file's name in error messages.
        content: The file's bytes from the first record on; slightly more than the records.
    """

    locations: Sequence[RecordLocation]
    display_name: str
    content: bytes

    @property
    def framed(self) -> memoryview:
        """The records with their frames, as in the file."""
        return memoryview(self.content)[: self.locations[-1].end - self.locations[0].offset]

    def data(self, location: RecordLocation) -> bytes:
        """Returns a record's data. Thread-safe.

        Raises:
            InvalidDataError: if it does not match its checksum, with the record's number and offset.
        """
        begin = location.offset - self.locations[0].offset + _HEADER_BYTES
        end = begin + location.length
        data = self.content[begin:end]
        if _masked_crc(data) != self.content[end : end + _FOOTER_BYTES]:
            raise _damaged_record(self.display_name, _WRONG_DATA, location)
        return data


def read_record_blocks(
    path: Path, display_name: str = "", *, block_bytes: int = _BLOCK_BYTES
) -> Iterator[RecordBlock]:
    """Yields all records of an uncompressed TFRecord file, about ``block_bytes`` at a time.

    The records before the damage are yielded before an error is raised.

    Args:
        path: The file.
        display_name: The file's name in error messages, if ``path`` is a copy; empty = ``path``.
        block_bytes: The largest size of a block with more than one record; at least 12.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: at the first record that is truncated or has a damaged header, with its number,
            from 0, and its offset: the location of the next record is then unknown.
    """
    display_name = display_name or str(path)
    with must_be_readable(display_name):
        # Unbuffered: a block is larger than a buffer, which would only add a copy.
        file = path.open("rb", buffering=0)
    with file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        number = begin = 0
        while begin < size:
            content = _read_at(descriptor, block_bytes, begin)
            first = RecordLocation(number, begin, 0)
            locations, damage = _locate_records(content, display_name, first, size)
            if not locations and damage is None:
                if len(content) < _HEADER_BYTES:
                    # The file was truncated by another process in the meantime.
                    raise _damaged_record(display_name, f"{_TRUNCATED}'s header", first)
                # A record larger than a block.
                location = replace(first, length=_length_of(content))
                content += _read_at(descriptor, location.end - begin - len(content), begin + len(content))
                locations = [location]
            if locations:
                if len(content) < locations[-1].end - begin:
                    raise _damaged_record(display_name, _TRUNCATED, locations[-1])
                yield RecordBlock(locations, display_name, content)
                number, begin = locations[-1].number + 1, locations[-1].end
            if damage is not None:
                raise damage


def _locate_records(
    content: bytes, display_name: str, first: RecordLocation, size: int
) -> tuple[list[RecordLocation], InvalidDataError | None]:
    """Returns the records that a part of a file contains whole, and the error of the record after them.

    Args:
        content: The part.
        display_name: The file's name in error messages.
        first: Number and offset of the record at the beginning of the part.
        size: Of the whole file.
    """
    locations: list[RecordLocation] = []
    number, begin = first.number, 0
    while header := content[begin : begin + _HEADER_BYTES]:
        location = RecordLocation(number, first.offset + begin, 0)
        if len(header) < _HEADER_BYTES:
            if location.offset + _HEADER_BYTES <= size:
                break
            return locations, _damaged_record(display_name, f"{_TRUNCATED}'s header", location)
        if _masked_crc(header[:8]) != header[8:]:
            if number == 0 and header.startswith(_COMPRESSED):
                return locations, _damaged_record(
                    display_name, "the file is compressed", location, _UNCOMPRESS
                )
            hint = " (not a TFRecord file?)" if number == 0 else ""
            return locations, _damaged_record(display_name, f"{_WRONG_LENGTH}{hint}", location)
        location = replace(location, length=_length_of(header))
        # Both are checked before memory is allocated for the record.
        if location.length > _MAX_RECORD_BYTES:
            problem = f"the record's header declares {plural(location.length, 'byte')}"
            return locations, _damaged_record(display_name, problem, location)
        if location.end > size:
            return locations, _damaged_record(display_name, _TRUNCATED, location)
        if location.end - first.offset > len(content):
            break
        locations.append(location)
        number, begin = number + 1, location.end - first.offset
    return locations, None


def _length_of(header: bytes) -> int:
    return int(struct.unpack_from("<Q", header)[0])


def read_records(path: Path, display_name: str = "") -> Iterator[tuple[int, bytes]]:
    """Yields the byte offset and the data of every record of an uncompressed TFRecord file.

    Args:
        path: The file.
        display_name: The file's name in error messages, if ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: at the first damaged record, with its number (from 0) and its offset.
    """
    for block in read_record_blocks(path, display_name):
        for location in block.locations:
            yield location.offset, block.data(location)


def encode_record_sizes(sizes: Sequence[int]) -> str:
    """Returns the sizes of a file's records with their frames as text: uint32, little-endian, in base64."""
    return base64.b64encode(np.asarray(sizes, "<u4").tobytes()).decode("ascii")


def decode_record_offsets(sizes: str) -> NDArray[np.int64]:
    """Returns the offset of each record and the file's size, given ``encode_record_sizes``.

    Returns:
        int64 [records + 1], in bytes.

    Raises:
        ValueError: if the text is not valid.
    """
    ends = np.frombuffer(base64.b64decode(sizes, validate=True), "<u4").cumsum(dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), ends])


def read_record_at(descriptor: int, offset: int, end: int, *, where: str) -> bytes:
    """Returns the data of one record of an open file. Thread-safe.

    Args:
        descriptor: Of the file.
        offset: Of the record, in bytes.
        end: The offset of the next record.
        where: File and record, for the error message.

    Raises:
        InvalidDataError: if the data does not match its checksum.
    """
    # Two reads are faster than a copy of the data without its frame.
    data = _read_at(descriptor, end - offset - _HEADER_BYTES - _FOOTER_BYTES, offset + _HEADER_BYTES)
    footer = _read_at(descriptor, _FOOTER_BYTES, end - _FOOTER_BYTES)
    if _masked_crc(data) != footer:
        raise InvalidDataError(_WRONG_DATA, where=where, remedy=_WRITE_AGAIN)
    return data


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Returns ``length`` bytes from an offset of a file, fewer only at its end."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        # A network file system may return less than was requested.
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _masked_crc(*parts: bytes) -> bytes:
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _damaged_record(
    display_name: str, problem: str, location: RecordLocation, remedy: str = _WRITE_AGAIN
) -> InvalidDataError:
    where = f"{display_name}, record {location.number}, byte offset {location.offset}"
    return InvalidDataError(problem, where=where, remedy=remedy)
