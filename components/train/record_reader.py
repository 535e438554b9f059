"""Reads the records of a split's shards in any order."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import CONVERT_AGAIN
from imgpipe.components.common.errors import InvalidDataError, must_be_readable
from imgpipe.components.common.plural import plural
from imgpipe.components.common.tfrecord import decode_record_offsets, read_record_at, read_record_blocks
from imgpipe.components.train.example_order import BLOCK

# Far below the operating system's limit per process. Other shards are reopened when they are needed.
_MAX_OPEN_FILES = 64
# Shards that are scanned for record offsets at a time.
_SHARDS_AT_ONCE = 16
_REMEDY = f"check the path; {CONVERT_AGAIN}"


class RecordReader:
    """Reads the serialized tf.Examples of some shards by index. Thread-safe.

    It keeps the offset of each record in memory, 8 bytes per record.

    Args:
        paths: The shards.
        shard_examples: Number of examples in each shard.
        record_sizes: The manifest's ``record_sizes`` of each shard. Without them, a whole shard is read for
            its offsets when its first record is needed.
    """

    def __init__(
        self, paths: Sequence[Path], shard_examples: Sequence[int], record_sizes: Sequence[str] = ()
    ) -> None:
        self._paths = list(paths)
        self._record_sizes = list(record_sizes) or [""] * len(self._paths)
        self._ends = np.cumsum(shard_examples, dtype=np.int64)
        self._firsts = self._ends - shard_examples
        self._offsets: dict[int, NDArray[np.int64]] = {}
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, indices: NDArray[np.int64]) -> list[bytes]:
        """Returns the records with these indices, 0..examples-1, numbered through the shards in order.

        Raises:
            MissingInputError: if a shard does not exist.
            InvalidDataError: if a record is damaged, or a shard does not have the given number of examples.
        """
        return [
            # The variable keeps the file open during the read, even if it is evicted from the dictionary.
            read_record_at(file.descriptor, begin, end, where=where)
            for file, begin, end, where in self._locate(indices, 1)
        ]

    def prefetch(self, indices: NDArray[np.int64]) -> None:
        """Lets the operating system read these records into its page cache in the background.

        It reads the whole blocks that ``ExampleOrder`` keeps together: on a mounted bucket each record would
        be a request of its own, and the neighbours are needed soon.

        Raises:
            MissingInputError: as ``read``.
            InvalidDataError: as ``read``.
        """
        if hasattr(os, "posix_fadvise"):
            starts = indices - (indices - self._firsts[self._shards_of(indices)]) % BLOCK
            # The most urgent ones first.
            blocks = np.fromiter(dict.fromkeys(starts.tolist()), np.int64)
            for file, begin, end, _ in self._locate(blocks, BLOCK):
                os.posix_fadvise(file.descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)

    def _shards_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._ends, indices, side="right")

    def _locate(self, indices: NDArray[np.int64], count: int) -> Iterator[tuple["_OpenFile", int, int, str]]:
        """Yields, for each index, where ``count`` records from there on are; fewer at the end of a shard.

        Yields:
            The file, the begin of the first record there, the end of the last one, and the location of the
            first one for messages.
        """
        shards = self._shards_of(indices)
        with self._lock:
            self._read_offsets([shard for shard in set(shards.tolist()) if shard not in self._offsets])
        for shard, number in zip(shards.tolist(), (indices - self._firsts[shards]).tolist(), strict=True):
            offsets = self._offsets[shard]
            begin, end = int(offsets[number]), int(offsets[min(number + count, len(offsets) - 1)])
            with self._lock:
                file = self._file(shard)
            yield file, begin, end, f"{self._paths[shard]}, record {number}"

    def _read_offsets(self, shards: list[int]) -> None:
        # Threads, because it mostly waits for the disk.
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            for shard, offsets in zip(shards, pool.map(self._offsets_of, shards), strict=True):
                found, expected = len(offsets) - 1, int(self._ends[shard] - self._firsts[shard])
                if found != expected:
                    raise InvalidDataError(
                        f"{self._paths[shard]} has {plural(found, 'record')}, "
                        f"but the manifest says {expected:,}",
                        remedy="run the convert step again, because the file has changed since",
                    )
                self._offsets[shard] = offsets

    def _offsets_of(self, shard: int) -> NDArray[np.int64]:
        path, sizes = self._paths[shard], self._record_sizes[shard]
        if not sizes:
            ends = [location.end for block in read_record_blocks(path) for location in block.locations]
            return np.array([0, *ends], np.int64)
        offsets = decode_record_offsets(sizes)
        with must_be_readable(str(path), remedy=_REMEDY):
            found = path.stat().st_size
        if found != offsets[-1]:
            raise InvalidDataError(
                f"{path} has {found:,} bytes, but the manifest says {offsets[-1]:,}",
                remedy="run the convert step again, because the file has changed since",
            )
        return offsets

    def _file(self, shard: int) -> "_OpenFile":
        if shard not in self._files:
            if len(self._files) >= _MAX_OPEN_FILES:
                self._files.popitem(last=False)
            self._files[shard] = _OpenFile(self._paths[shard])
        self._files.move_to_end(shard)
        return self._files[shard]


class _OpenFile:
    """A file descriptor that is closed with the last reference to this object."""

    def __init__(self, path: Path) -> None:
        with must_be_readable(str(path), remedy=_REMEDY):
            self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        # Not set if the file could not be opened.
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
