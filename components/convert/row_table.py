"""A memory-efficient table of labeled images: about 40 bytes plus the path per row."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.storage import FileStatus, Location, resolve

UNASSIGNED = ""
# A row's split is stored as its index in this tuple.
_USES = (UNASSIGNED, TRAIN, VALIDATION, TEST)
_DROPPED = len(_USES)
UNKNOWN = FileStatus(size=-1, version=0)
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """A labeled image.

    Attributes:
        file: The CSV or JSONL file, the folder or the pattern, as the user gave it.
        line: The line of the file, from 1; 0 in a folder.
        path: The image's path as written in the row; in a folder, relative to the folder.
        label: The label's name; in a multi-label data set the text of the label set (``label_set``).
        location: The image file.
        bytes: The size of the image file.
        version: The version of the image file; increases when it is written.
        use: The split; empty if it is still to be drawn.
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
    """A rejected row with the reason; ``path`` and ``label`` are empty if the row lacks them."""

    file: str
    line: int
    path: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder that lists rows: its name as the user gave it, and the folder of relative paths."""

    file: str
    root: Location


class RowTable:
    """Rows stored as columns of numbers and one byte string of paths; ``Row`` objects are made on access."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self._labels: dict[str, int] = {}
        # In order of first appearance.
        self.label_names: list[str] = []
        self._paths = bytearray()
        self._path_ends = array("Q")
        self._source = array("H")
        self._line = array("I")
        self._label = array("I")
        self._use = array("B")
        # Four bytes suffice: a record is limited to 2 GiB.
        self._bytes = array("i")
        self._version = array("Q")
        # Stays empty until a row has a checksum: local files have none.
        self._checksum = array("q")
        # Both stay empty until a row has a group.
        self._groups: dict[str, int] = {}
        self._group = array("I")

    def __len__(self) -> int:
        return len(self._line)

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Row:
        source = self.sources[self._source[index]]
        path = self.path(index)
        return Row(
            source.file,
            self._line[index],
            path,
            self.label_names[self._label[index]],
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
        group: str = "",
        status: FileStatus = UNKNOWN,
    ) -> None:
        """Adds a row; rows with the same ``group`` belong together, unless it is empty."""
        self._paths += path.encode("utf-8", "surrogateescape")
        self._path_ends.append(len(self._paths))
        self._source.append(source)
        self._line.append(line)
        self._label.append(self._label_number(label))
        self._use.append(_USES.index(use))
        self._bytes.append(0)
        self._version.append(0)
        if group:
            self._group.extend([0] * (len(self) - 1 - len(self._group)))
            self._group.append(self._groups.setdefault(group, len(self._groups) + 1))
        self.set_status(len(self) - 1, status)

    def set_status(self, index: int, status: FileStatus) -> None:
        """Sets the size, version and checksum of the image file."""
        self._bytes[index] = min(status.size, _MAX_SIZE)
        self._version[index] = status.version
        if status.checksum >= 0 or self._checksum:
            self._checksum.extend([-1] * (len(self._bytes) - len(self._checksum)))
            self._checksum[index] = status.checksum

    def status(self, index: int) -> FileStatus:
        """Returns the size, version and checksum of the image file; ``UNKNOWN`` if not checked."""
        return FileStatus(self._bytes[index], self._version[index], self.checksum(index))

    def set_label(self, index: int, label: str) -> None:
        """Changes the label of a row."""
        self._label[index] = self._label_number(label)

    def _label_number(self, label: str) -> int:
        number = self._labels.get(label)
        if number is None:
            number = self._labels[label] = len(self.label_names)
            self.label_names.append(label)
        return number

    def drop(self, index: int) -> None:
        """Removes a row from every split."""
        self._use[index] = _DROPPED

    def path(self, index: int) -> str:
        """Returns the path as written in the row."""
        begin = self._path_ends[index - 1] if index else 0
        return self._paths[begin : self._path_ends[index]].decode("utf-8", "surrogateescape")

    def location(self, index: int) -> Location:
        """Returns the location of the image file."""
        return resolve(self.sources[self._source[index]].root, self.path(index))

    def use(self, index: int) -> str:
        """Returns the row's split; empty if it is still to be drawn or the row was dropped."""
        return _USES[self._use[index]] if self._use[index] < _DROPPED else UNASSIGNED

    def rows_for(self, use: str) -> npt.NDArray[np.int64]:
        """Returns the numbers of a split's rows; an empty split gives the rows that are still to be drawn."""
        return np.flatnonzero(np.frombuffer(self._use, np.uint8) == _USES.index(use))

    def rows_without_status(self) -> npt.NDArray[np.int64]:
        """Returns the numbers of the rows with an image file that has not been checked yet."""
        return np.flatnonzero(np.frombuffer(self._bytes, np.int32) == UNKNOWN.size)

    def sizes(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Returns the sizes in bytes of the rows' image files."""
        sizes: npt.NDArray[np.int64] = np.frombuffer(self._bytes, np.int32)[numbers].astype(np.int64)
        return sizes

    def checksum(self, index: int) -> int:
        """Returns the CRC-32C of the image file; -1 if it is unknown."""
        return self._checksum[index] if index < len(self._checksum) else -1

    @property
    def group_names(self) -> list[str]:
        """The names of the groups, in order of first appearance."""
        return list(self._groups)

    def group_indices(self, numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Returns the groups of the rows as indices in ``group_names``; -1 for a row without a group."""
        groups = np.full(len(numbers), -1, np.int64)
        known = numbers < len(self._group)
        groups[known] = np.array(self._group, np.int64)[numbers[known]] - 1
        return groups

    def label_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Returns the labels of the rows as indices in ``label_names``."""
        return np.frombuffer(self._label, np.uint32)[numbers]

    def label_name(self, index: int) -> str:
        """Returns a row's label."""
        return self.label_names[self._label[index]]


class RowSelection(Sequence[Row]):
    """A selection of a table's rows, in any order."""

    def __init__(self, table: RowTable, numbers: npt.NDArray[np.integer]) -> None:
        self.table = table
        # Half the memory of int64; no data set has 4 billion images.
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
        # Not tolist(), which takes 40 MB per million numbers.
        return (self.table[int(number)] for number in self.numbers)

    @property
    def bytes(self) -> int:
        """The total size of the rows' image files."""
        return int(self.table.sizes(self.numbers).sum())
