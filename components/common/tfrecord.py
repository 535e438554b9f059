"""Reading and writing TFRecord files without TensorFlow.

A record is its length (uint64, little-endian), the masked CRC-32C of these eight bytes, the data,
and the masked CRC-32C of the data (source: tensorflow/core/lib/io/record_writer.h). TensorFlow
reads these files as its own.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from components.common.errors import InvalidDataError, MissingInputError

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
# tf.Example cannot be larger: protocol buffers end at 2 GiB.
_LARGEST_RECORD_BYTES = 2**31
_MASK_DELTA = 0xA282EAD8
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


class RecordFile:
    """An uncompressed TFRecord file, open for reading by any number of threads; a context manager.

    Args:
        path: The file.
        shown: What errors call it, when ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be opened.
    """

    def __init__(self, path: Path, shown: str = "") -> None:
        self._shown = shown or str(path)
        try:
            # Unbuffered: records are larger than a buffer, which would only be one more copy.
            self._file = path.open("rb", buffering=0)
            self._descriptor = self._file.fileno()
        except OSError as error:
            raise MissingInputError(
                f"cannot read {self._shown}: {error.strerror}", remedy="check the path"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def places(self) -> Iterator[RecordPlace]:
        """Yields the place of every record, without reading its data.

        Raises:
            InvalidDataError: at the first record whose header is damaged or whose end is missing, with its
                number and its offset: nothing says where the next one begins.
        """
        size = os.fstat(self._descriptor).st_size
        number = offset = 0
        while True:
            header = _read_at(self._descriptor, _HEADER_BYTES, offset)
            if not header:
                return
            if len(header) < _HEADER_BYTES:
                raise self._damaged("the file ends inside a record's header", number, offset)
            length_bytes, length_crc = header[:8], header[8:]
            if _masked_crc(length_bytes) != length_crc:
                if number == 0 and header.startswith(_COMPRESSED):
                    raise self._damaged("the file is compressed", number, offset, _UNCOMPRESS)
                hint = " (no TFRecord file?)" if number == 0 else ""
                raise self._damaged(f"the record's length does not match its checksum{hint}", number, offset)
            place = RecordPlace(number, offset, struct.unpack("<Q", length_bytes)[0])
            if place.length > _LARGEST_RECORD_BYTES:
                raise self._damaged(f"the record claims {place.length:,} bytes", number, offset)
            if place.end > size:
                # Before memory is taken for it.
                raise self._damaged("the file ends inside a record", number, offset)
            yield place
            number, offset = number + 1, place.end

    def data(self, place: RecordPlace) -> bytes:
        """Returns a record's data.

        Raises:
            InvalidDataError: if it does not match its checksum, with the record's number and offset.
        """
        # Together, in one call: each lets go of the interpreter's lock, and gets it back when others yield.
        framed = _read_at(self._descriptor, place.length + _FOOTER_BYTES, place.offset + _HEADER_BYTES)
        data, footer = framed[: place.length], framed[place.length :]
        if len(footer) < _FOOTER_BYTES:
            raise self._damaged("the file ends inside a record", place.number, place.offset)
        if _masked_crc(data) != footer:
            raise self._damaged("the record's data does not match its checksum", place.number, place.offset)
        return data

    def _damaged(
        self, problem: str, number: int, offset: int, remedy: str = _WRITE_AGAIN
    ) -> InvalidDataError:
        return _damaged(problem, f"{self._shown}, record {number}, byte offset {offset}", remedy)


def read_records(path: Path, shown: str = "") -> Iterator[tuple[int, bytes]]:
    """Yields the byte offset and the data of every record of an uncompressed TFRecord file.

    Args:
        path: The file.
        shown: What errors call it, when ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be opened.
        InvalidDataError: at the first damaged record, with its number (from 0) and its offset.
    """
    with RecordFile(path, shown) as file:
        for place in file.places():
            yield place.offset, file.data(place)


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
    # Two reads are quicker than a copy of the data without its frame; where each read is a wait for the
    # interpreter's lock, as in RecordFile.data, the copy is.
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


def _damaged(problem: str, where: str, remedy: str = _WRITE_AGAIN) -> InvalidDataError:
    return InvalidDataError(problem, where=where, remedy=remedy)
