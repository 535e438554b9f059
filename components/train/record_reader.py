"""Reads single records of a split's shards in any order, so that an epoch's order is free."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.tfrecord import read_record_at, read_record_offsets

# Far below what a system allows a process; more shards than these are opened again when their turn comes.
_OPEN_FILES = 64
# Shards whose records are looked for at a time.
_SHARDS_AT_ONCE = 16


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
        self._firsts = self._ends - shard_examples
        self._offsets: dict[int, NDArray[np.int64]] = {}
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, numbers: NDArray[np.int64]) -> list[bytes]:
        """Returns the records of these numbers, 0..examples-1, counted through the shards in order.

        Raises:
            MissingInputError: if a shard is not there.
            InvalidDataError: if a record is damaged, or a shard does not hold as many as were said.
        """
        return [
            # The file is held by this name while it is read, even if it is pushed out of the dictionary.
            read_record_at(file.descriptor, begin, end, where=where)
            for file, begin, end, where in self._places(numbers)
        ]

    def announce(self, numbers: NDArray[np.int64]) -> None:
        """Lets the system read these records into its own memory meanwhile, all of them at once.

        Raises:
            MissingInputError: as ``read``.
            InvalidDataError: as ``read``.
        """
        if hasattr(os, "posix_fadvise"):
            for file, begin, end, _ in self._places(numbers):
                os.posix_fadvise(file.descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)

    def _places(self, numbers: NDArray[np.int64]) -> Iterator[tuple["_OpenFile", int, int, str]]:
        """Yields each record's file, where in it the record begins and ends, and its name for messages."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        with self._lock:
            self._find_offsets([shard for shard in set(shards.tolist()) if shard not in self._offsets])
        for shard, number in zip(shards.tolist(), (numbers - self._firsts[shards]).tolist(), strict=True):
            begin, end = self._offsets[shard][number : number + 2].tolist()
            with self._lock:
                file = self._file(shard)
            yield file, begin, end, f"{self._paths[shard]}, record {number}"

    def _find_offsets(self, shards: list[int]) -> None:
        # Mostly waiting for the disk.
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            for shard, offsets in zip(
                shards, pool.map(read_record_offsets, (self._paths[shard] for shard in shards)), strict=True
            ):
                found, expected = len(offsets) - 1, int(self._ends[shard] - self._firsts[shard])
                if found != expected:
                    raise InvalidDataError(
                        f"{self._paths[shard]} holds {found:,} records, the manifest says {expected:,}",
                        remedy="run the convert step again: a file has changed since",
                    )
                self._offsets[shard] = offsets

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
