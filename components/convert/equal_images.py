"""Groups rows with byte-for-byte equal images, reading as few files as possible."""

import hashlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from imgpipe.components.common.parallel import group_items, map_in_order
from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.convert.row_table import RowTable
from imgpipe.components.storage import PARALLEL_DOWNLOADS

Item = TypeVar("Item")

# The last bytes of a photograph are encoded pixels: these are enough to distinguish files.
_END_BYTES = 512


def group_equal_images(
    table: RowTable, numbers: npt.NDArray[np.int64], threads: int, images: ImageReader
) -> npt.NDArray[np.int64]:
    """Returns a group number for each row; rows have the same number exactly if their images are equal.

    Only files at different locations with equal sizes and equal last bytes are read. Images count as equal
    if size and checksum are equal: the store's, else the CRC-32C. Different images of one size share a
    checksum once in four thousand million pairs; the only consequence is that they stay in one split.

    Args:
        table: The rows.
        numbers: The numbers of the rows to group.
        threads: The number of files that are read in parallel.
        images: Reads them.
    """
    # A sample is enough to see whether images are remote.
    is_remote = any(not table.location(int(number)).is_local for number in numbers[::100])
    hashes = np.fromiter((_location_hash(table, int(number)) for number in numbers), np.uint64, len(numbers))
    first_rows, location_of_row = _unique(hashes)
    del hashes
    group_of_location = _group_files(table, numbers[first_rows], threads, images, is_remote=is_remote)
    groups: npt.NDArray[np.int64] = group_of_location[location_of_row]
    return groups


def _unique(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Returns the index of each distinct value's first occurrence, and for each value its rank.

    Like ``np.unique`` in half the memory: this is the peak memory of a conversion with many rows.
    """
    order = np.argsort(values, kind="stable")
    is_first = np.ones(len(values), bool)
    sorted_values = values[order]
    is_first[1:] = sorted_values[1:] != sorted_values[:-1]
    del sorted_values
    ranks = np.empty(len(values), np.int32)
    ranks[order] = np.cumsum(is_first, dtype=np.int32) - np.int32(1)
    return order[is_first], ranks


def _location_hash(table: RowTable, number: int) -> int:
    # Eight bytes per path: the paths themselves would take more memory than everything else.
    location = str(table.location(number)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(location, digest_size=8).digest(), "big")


def _group_files(
    table: RowTable, files: npt.NDArray[np.int64], threads: int, images: ImageReader, *, is_remote: bool
) -> npt.NDArray[np.int64]:
    # Each download waits on its own thread.
    threads = max(threads, PARALLEL_DOWNLOADS) if is_remote else threads
    many, few = (1, 1) if is_remote else (64, 4)
    groups = np.arange(len(files))
    sizes = table.sizes(files)
    candidates = _with_shared_key(groups, sizes)
    # Most files of equal size are different images, whose last bytes differ. The last bytes are compared only
    # for sizes without a checksum from the bucket, since that is the checksum of the whole object.
    known_sizes = {int(sizes[index]) for index in candidates if table.checksum(int(files[index])) >= 0}
    numbers_and_sizes = zip(files[candidates].tolist(), sizes[candidates].tolist(), strict=True)
    ends = _map_integers(
        lambda file: 0 if file[1] in known_sizes else _end_checksum(table, *file, images),
        numbers_and_sizes,
        threads,
        max_items=many,
    )
    candidates = _with_shared_key(candidates, sizes[candidates] << 32 | ends)
    numbers = map(int, files[candidates])
    checksums = _map_integers(
        lambda number: _checksum(table, number, images), numbers, threads, max_items=few
    )
    known: dict[tuple[int, int], int] = {}
    for candidate, checksum in zip(candidates.tolist(), checksums.tolist(), strict=True):
        if checksum >= 0:
            groups[candidate] = known.setdefault((int(sizes[candidate]), checksum), candidate)
    return groups


def _with_shared_key(candidates: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the candidates that share their key with another one, ordered by key."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    return candidates[order[np.append(same, False) | np.append(False, same)]] if len(order) else candidates


def _map_integers(
    function: Callable[[Item], int], items: Iterable[Item], threads: int, *, max_items: int
) -> npt.NDArray[np.int64]:
    """Returns ``function(item)`` for every item, computed on threads in groups of up to ``max_items``."""
    groups = group_items(items, lambda _: 0, max_items=max_items)
    results = map_in_order(lambda group: list(map(function, group)), groups, threads)
    return np.fromiter(chain.from_iterable(results), np.int64)


def _end_checksum(table: RowTable, number: int, size: int, images: ImageReader) -> int:
    try:
        end = images.read_end(table.location(number), size, _END_BYTES)
        return int(google_crc32c.value(end))
    except OSError:
        # The conversion will reject this row.
        return 0


def _checksum(table: RowTable, number: int, images: ImageReader) -> int:
    known = table.checksum(number)
    if known >= 0:
        return known
    try:
        return int(google_crc32c.value(images.read(table.location(number), again=True)))
    except OSError:
        # The conversion will reject this row.
        return -1
