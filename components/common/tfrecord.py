"""Reading and writing TFRecord files without TensorFlow.

A record is its length (uint64, little-endian), the masked CRC-32C of these eight bytes, the data,
and the masked CRC-32C of the data (source: tensorflow/core/lib/io/record_writer.h). TensorFlow
reads these files as its own.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError, MissingInputError

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# tf.Example cannot be larger: protocol buffers end at 2 GiB.
_LARGEST_RECORD_BYTES = 2**31
_MASK_DELTA = 0xA282EAD8
# Enough that handing a block to a thread costs little beside the work on its records.
_BLOCK_BYTES = 2_000_000
# How a file begins that gzip or zlib wrote, which TensorFlow reads when it is told to.
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_UNCOMPRESS = "uncompress it (gzip -d, if gzip made it): files are read uncompressed"
_WRITE_AGAIN = "write the file again: it was cut off or damaged, or is no TFRecord file"


def begins_with_record(content: bytes) -> bool:
    """Whether a file's first bytes are a record's header: a length and its checksum."""
    return len(content) >= _HEADER_BYTES and _masked_crc(content[:8]) == content[8:_HEADER_BYTES]


def framed_record(data: bytes) -> bytes:
    """Returns a record as it stands in a file: length, data and their checksums."""
    return b"".join(framed_parts((data,)))


def framed_parts(parts: Sequence[bytes]) -> list[bytes]:
    """Returns a record whose data is the parts, for those who join several records and copy each once."""
    length = struct.pack("<Q", sum(map(len, parts)))
    return [length, _masked_crc(length), *parts, _masked_crc(*parts)]


def write_record(file: BinaryIO, data: bytes) -> None:
    """Appends one record to an open binary file."""
    file.write(framed_record(data))


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where a record lies in its file.

    Attributes:
        number: From 0.
        offset: In bytes, where its header begins.
        length: Of its data, in bytes.
    """

    number: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset at which the next record begins."""
        return self.offset + _HEADER_BYTES + self.length + _FOOTER_BYTES


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Some whole records that were read together.

    Attributes:
        places: Where they lie in their file.
        shown: What errors call the file.
        content: The file's bytes from the first record on; a little more than the records.
    """

    places: Sequence[RecordPlace]
    shown: str
    content: bytes

    @property
    def framed(self) -> memoryview:
        """The records with their frames, as they stand in the file."""
        return memoryview(self.content)[: self.places[-1].end - self.places[0].offset]

    def data(self, place: RecordPlace) -> bytes:
        """Returns a record's data; any number of threads may ask.

        Raises:
            InvalidDataError: if it does not match its checksum, with the record's number and offset.
        """
        begin = place.offset - self.places[0].offset + _HEADER_BYTES
        end = begin + place.length
        data = self.content[begin:end]
        if _masked_crc(data) != self.content[end : end + _FOOTER_BYTES]:
            raise _damaged_record(self.shown, "the record's data does not match its checksum", place)
        return data


def record_blocks(path: Path, shown: str = "", *, block_bytes: int = _BLOCK_BYTES) -> Iterator[RecordBlock]:
    """Yields all records of an uncompressed TFRecord file, about ``block_bytes`` of them at a time.

    What it yields before an error are the records that precede the damage.

    Args:
        path: The file.
        shown: What errors call it, when ``path`` is a copy; empty = ``path``.
        block_bytes: A block with more than one record has no more bytes; at least 12.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: at the first record whose header is damaged or whose end is missing, with its
            number, from 0, and its offset: nothing says where the next one begins.
    """
    shown = shown or str(path)
    try:
        # Unbuffered: a block is larger than a buffer, which would only be one more copy.
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise MissingInputError(f"cannot read {shown}: {error.strerror}", remedy="check the path") from None
    with file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        number = begin = 0
        while begin < size:
            content = _read_at(descriptor, block_bytes, begin)
            places, damage = _places_in(content, shown, RecordPlace(number, begin, 0), size)
            if not places and damage is None:
                place = RecordPlace(number, begin, 0)
                if len(content) < _HEADER_BYTES:
                    # Somebody shortens it while it is read.
                    raise _damaged_record(shown, "the file ends inside a record's header", place)
                # A record larger than a block: its header says how large.
                place = replace(place, length=_length_of(content))
                content += _read_at(descriptor, place.end - begin - len(content), begin + len(content))
                places = [place]
            if places:
                if len(content) < places[-1].end - begin:
                    raise _damaged_record(shown, "the file ends inside a record", places[-1])
                yield RecordBlock(places, shown, content)
                number, begin = places[-1].number + 1, places[-1].end
            if damage is not None:
                raise damage


def _places_in(
    content: bytes, shown: str, first: RecordPlace, size: int
) -> tuple[list[RecordPlace], InvalidDataError | None]:
    """Returns the records that lie whole in a part of a file, and what is wrong with the one after them.

    Args:
        content: The part.
        shown: What errors call the file.
        first: Number and offset of the record with which the part begins.
        size: Of the whole file.
    """
    places: list[RecordPlace] = []
    number, begin = first.number, 0
    while header := content[begin : begin + _HEADER_BYTES]:
        place = RecordPlace(number, first.offset + begin, 0)
        if len(header) < _HEADER_BYTES:
            if place.offset + _HEADER_BYTES <= size:
                break
            return places, _damaged_record(shown, "the file ends inside a record's header", place)
        if _masked_crc(header[:8]) != header[8:]:
            if number == 0 and header.startswith(_COMPRESSED):
                return places, _damaged_record(shown, "the file is compressed", place, _UNCOMPRESS)
            hint = " (no TFRecord file?)" if number == 0 else ""
            problem = f"the record's length does not match its checksum{hint}"
            return places, _damaged_record(shown, problem, place)
        place = RecordPlace(number, place.offset, _length_of(header))
        if place.length > _LARGEST_RECORD_BYTES:
            return places, _damaged_record(shown, f"the record claims {place.length:,} bytes", place)
        if place.end > size:
            # Before memory is taken for it.
            return places, _damaged_record(shown, "the file ends inside a record", place)
        if place.end - first.offset > len(content):
            break
        places.append(place)
        number, begin = number + 1, place.end - first.offset
    return places, None


def _length_of(header: bytes) -> int:
    return int(struct.unpack_from("<Q", header)[0])


def read_records(path: Path, shown: str = "") -> Iterator[tuple[int, bytes]]:
    """Yields the byte offset and the data of every record of an uncompressed TFRecord file.

    Args:
        path: The file.
        shown: What errors call it, when ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: at the first damaged record, with its number (from 0) and its offset.
    """
    for block in record_blocks(path, shown):
        for place in block.places:
            yield place.offset, block.data(place)


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
            header = _read_at(descriptor, _HEADER_BYTES, offsets[-1])
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
    # Two reads are quicker than a copy of the data without its frame.
    data = _read_at(descriptor, end - offset - _HEADER_BYTES - _FOOTER_BYTES, offset + _HEADER_BYTES)
    footer = _read_at(descriptor, _FOOTER_BYTES, end - _FOOTER_BYTES)
    if _masked_crc(data) != footer:
        raise _damaged("the record's data does not match its checksum", where)
    return data


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Returns what a file has at an offset: fewer bytes than ``length`` only at its end."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        # A network's file system may give less than is asked for.
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
    shown: str, problem: str, place: RecordPlace, remedy: str = _WRITE_AGAIN
) -> InvalidDataError:
    return _damaged(problem, f"{shown}, record {place.number}, byte offset {place.offset}", remedy)


def _damaged(problem: str, where: str, remedy: str = _WRITE_AGAIN) -> InvalidDataError:
    return InvalidDataError(problem, where=where, remedy=remedy)
