"""Reads single records of a split's shards in any order, so that an epoch's order is free."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.errors import InvalidDataError, MissingInputError
from components.common.tfrecord import read_record_at, record_offsets

# Far below what a system allows a process; more shards than these are opened again when their turn comes.
_OPEN_FILES = 64


class RecordReader:
    """The serialized tf.Examples of some shards, by their number; may be used by several threads.

    What it holds is 8 bytes a record: where it begins. A shard's are found when its first record is
    asked for, by reading the headers of its records.

    Args:
        paths: The shards.
        shard_examples: How many examples each of them holds.
    """

    def __init__(self, paths: Sequence[Path], shard_examples: Sequence[int]) -> None:
        self._paths = list(paths)
        self._ends = np.cumsum(shard_examples)
        self._offsets: dict[int, NDArray[np.int64]] = {}
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, numbers: Iterable[int]) -> list[bytes]:
        """Returns the records of these numbers, 0..examples-1, counted through the shards in order.

        Raises:
            MissingInputError: if a shard is not there.
            InvalidDataError: if a record is damaged, or a shard does not hold as many as were said.
        """
        return [self._record(int(number)) for number in numbers]

    def _record(self, number: int) -> bytes:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        with self._lock:
            offsets = self._shard_offsets(shard)
            # Held by this name while it is read, even if it is pushed out of the dictionary meanwhile.
            file = self._file(shard)
        begin, end = offsets[number - first : number - first + 2].tolist()
        return read_record_at(
            file.descriptor, begin, end, where=f"{self._paths[shard]}, record {number - first}"
        )

    def _shard_offsets(self, shard: int) -> NDArray[np.int64]:
        if shard not in self._offsets:
            offsets = record_offsets(self._paths[shard])
            expected = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
            found = len(offsets) - 1
            if found != expected:
                raise InvalidDataError(
                    f"{self._paths[shard]} holds {found:,} records, the manifest says {expected:,}",
                    remedy="run the convert step again: a file has changed since",
                )
            self._offsets[shard] = offsets
        return self._offsets[shard]

    def _file(self, shard: int) -> "_OpenFile":
        if shard not in self._files:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)
            self._files[shard] = _OpenFile(self._paths[shard])
        self._files.move_to_end(shard)
        return self._files[shard]


class _OpenFile:
    """A file descriptor that is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise MissingInputError(
                f"cannot read {path}: {error.strerror}", remedy="check the path"
            ) from None

    def __del__(self) -> None:
        # Missing when it could not be opened.
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
