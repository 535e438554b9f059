"""Rows in little memory: which image has which label, at some 40 bytes and the path for each row."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.storage import FileStatus, Location, resolve

UNASSIGNED = ""
# A row's split is kept as its place here.
_USES = (UNASSIGNED, TRAIN, VALIDATION, TEST)
_DROPPED = len(_USES)
UNKNOWN = FileStatus(size=-1, version=0)
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image that exists.

    Attributes:
        file: The CSV or JSONL file, the folder or the pattern, as the user gave it.
        line: The line of the file, from 1; 0 in a folder.
        path: The image's path as the row has it; in a folder, relative to the folder.
        label: The label's name; in a multi-label data set the text of the label set (``label_set``).
        location: Of the image's file.
        bytes: The size of the image's file.
        version: Of the image's file; increases when it is written.
        use: The split that the row is for; empty when it is still to be drawn.
    """

    file: str
    line: int
    path: str
    label: str
    location: Location
    bytes: int
    version: int = 0
    use: str = UNASSIGNED


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is not used, and why; ``path`` and ``label`` are as far as the row has them."""

    file: str
    line: int
    path: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that rows come from: its name as given, and the folder of its relative paths."""

    file: str
    root: Location


class RowTable(Sequence[Row]):
    """Rows in columns of numbers, paths in one stretch of bytes; a row is made when it is asked for."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self._labels: dict[str, int] = {}
        self._label_names: list[str] = []
        self._paths = bytearray()
        self._path_ends = array("Q")
        self._source = array("H")
        self._line = array("I")
        self._label = array("I")
        self._use = array("B")
        # Four bytes do: a file of 2 GiB makes no record.
        self._bytes = array("i")
        self._version = array("Q")
        # Only once there is one to keep: local files have none.
        self._checksum = array("q")

    def __len__(self) -> int:
        return len(self._line)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        source = self.sources[self._source[index]]
        path = self.path(index)
        return Row(
            source.file,
            self._line[index],
            path,
            self._label_names[self._label[index]],
            resolve(source.root, path),
            self._bytes[index],
            self._version[index],
            self.use(index),
        )

    def add_source(self, file: str, root: Location) -> int:
        """Adds a source and returns its number."""
        self.sources.append(Source(file, root))
        return len(self.sources) - 1

    def append(
        self,
        source: int,
        line: int,
        path: str,
        label: str,
        use: str,
        *,
        status: FileStatus = UNKNOWN,
    ) -> None:
        """Adds a row."""
        number = self._labels.get(label)
        if number is None:
            number = self._labels[label] = len(self._label_names)
            self._label_names.append(label)
        self._paths += path.encode("utf-8", "surrogateescape")
        self._path_ends.append(len(self._paths))
        self._source.append(source)
        self._line.append(line)
        self._label.append(number)
        self._use.append(_USES.index(use))
        self._bytes.append(0)
        self._version.append(0)
        self.set_status(len(self) - 1, status)

    def set_status(self, index: int, status: FileStatus) -> None:
        """Sets what is known of the image's file."""
        self._bytes[index] = min(status.size, _MAX_SIZE)
        self._version[index] = status.version
        if status.checksum >= 0 or self._checksum:
            self._keep_checksum(index, status.checksum)

    def _keep_checksum(self, index: int, checksum: int) -> None:
        if len(self._checksum) < len(self._bytes):
            self._checksum.extend([-1] * (len(self._bytes) - len(self._checksum)))
        self._checksum[index] = checksum

    def drop(self, index: int) -> None:
        """Takes a row out of every split."""
        self._use[index] = _DROPPED

    def path(self, index: int) -> str:
        """Returns the path as the row has it."""
        begin = self._path_ends[index - 1] if index else 0
        return self._paths[begin : self._path_ends[index]].decode("utf-8", "surrogateescape")

    def location(self, index: int) -> Location:
        """Returns the location of the image's file."""
        return resolve(self.sources[self._source[index]].root, self.path(index))

    def use(self, index: int) -> str:
        """Returns the row's split, empty when it is to be drawn; a dropped row has none either."""
        return _USES[self._use[index]] if self._use[index] < _DROPPED else UNASSIGNED

    def rows_for(self, use: str) -> npt.NDArray[np.int64]:
        """Returns the numbers of the rows that are for a split, or of those still to be drawn."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.frombuffer(self._use, np.uint8) == _USES.index(use))

    def unknown(self) -> npt.NDArray[np.int64]:
        """Returns the numbers of the rows whose file was not looked at yet."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.frombuffer(self._bytes, np.int32) == UNKNOWN.size)

    def sizes(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Returns the sizes in bytes of some rows' images."""
        found = np.frombuffer(self._bytes, np.int32)[numbers] if len(numbers) else np.zeros(0)
        return found.astype(np.int64)

    def checksum(self, index: int) -> int:
        """Returns the CRC-32C of the image's file, -1 when it is not known."""
        return self._checksum[index] if index < len(self._checksum) else -1

    def label_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Returns the labels of some rows as places in ``label_names``."""
        return np.frombuffer(self._label, np.uint32)[numbers] if len(numbers) else np.zeros(0, np.uint32)

    def label_name(self, index: int) -> str:
        """Returns a row's label."""
        return self._label_names[self._label[index]]

    @property
    def label_names(self) -> Sequence[str]:
        """The names of the labels in the order in which they first appeared."""
        return self._label_names


class RowSelection(Sequence[Row]):
    """Some rows of a table in an order of their own."""

    def __init__(self, table: RowTable, numbers: npt.NDArray[np.integer]) -> None:
        self.table = table
        # Half the memory, and no data set has 4 billion images.
        self.numbers = numbers.astype(np.uint32)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "RowSelection": ...

    def __getitem__(self, index: int | slice) -> "Row | RowSelection":
        if isinstance(index, slice):
            return RowSelection(self.table, self.numbers[index])
        return self.table[int(self.numbers[index])]

    def __iter__(self) -> Iterator[Row]:
        # Not numpy's tolist(): a million numbers as objects are 40 MB.
        return (self.table[int(number)] for number in self.numbers)

    @property
    def bytes(self) -> int:
        """The size of the rows' image files together."""
        return int(self.table.sizes(self.numbers).sum())
