"""Finds the rows whose images are equal byte for byte, without reading more files than it must."""

import hashlib
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from imgpipe.components.common.parallel import group_items, map_in_order
from imgpipe.components.convert.row_table import RowTable

Item = TypeVar("Item")

# Enough to tell photographs apart, whose last bytes are coded pixels.
_END_BYTES = 512


def group_equal_images(
    table: RowTable, numbers: npt.NDArray[np.int64], threads: int
) -> npt.NDArray[np.int64]:
    """Returns a group for each of some rows: equal for rows with equal images, else different.

    Only files at different places whose sizes and last bytes are equal are read. Two images count as
    equal when size and CRC-32C are; that two others of one size share a checksum happens once in four
    thousand million pairs, and then they merely stay in one split.

    Args:
        table: The rows.
        numbers: Which of them.
        threads: How many files are read at once.
    """
    places = np.fromiter((_location_hash(table, int(number)) for number in numbers), np.uint64, len(numbers))
    first_of_place, place_of_row = _unique(places)
    del places
    group_of_place = _equal_files(table, numbers[first_of_place], threads)
    groups: npt.NDArray[np.int64] = group_of_place[place_of_row]
    return groups


def _unique(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Returns where each distinct value stands first, and for each value which of the distinct ones it is.

    As ``np.unique`` does, in half the memory, which is the most that a conversion of many rows takes.
    """
    order = np.argsort(values, kind="stable")
    is_first = np.ones(len(values), bool)
    in_order_of_value = values[order]
    is_first[1:] = in_order_of_value[1:] != in_order_of_value[:-1]
    del in_order_of_value
    firsts = order[is_first]
    ranks = np.cumsum(is_first, dtype=np.int32) - np.int32(1)
    which = np.empty(len(values), np.int32)
    which[order] = ranks
    return firsts, which


def _location_hash(table: RowTable, number: int) -> int:
    # Eight bytes for each path: a set of the paths themselves would be the largest thing in memory.
    location = str(table.location(number)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(location, digest_size=8).digest(), "big")


def _equal_files(table: RowTable, files: npt.NDArray[np.int64], threads: int) -> npt.NDArray[np.int64]:
    groups = np.arange(len(files))
    sizes = table.sizes(files)
    candidates = _with_shared_key(groups, sizes)
    # Most files of one size are of one size by chance, and differ at their ends already.
    # A checksum that the bucket tells is of the whole object, and that of an end is not: they do not compare.
    told = {int(sizes[one]) for one in candidates if table.checksum(int(files[one])) >= 0}
    places = zip(files[candidates].tolist(), sizes[candidates].tolist(), strict=True)
    ends = _map_integers(
        lambda place: 0 if place[1] in told else _end_checksum(table, *place), places, threads, most=64
    )
    candidates = _with_shared_key(candidates, sizes[candidates] << 32 | ends)
    numbers = map(int, files[candidates])
    checksums = _map_integers(lambda number: _checksum(table, number), numbers, threads, most=4)
    known: dict[tuple[int, int], int] = {}
    for candidate, checksum in zip(candidates.tolist(), checksums.tolist(), strict=True):
        if checksum >= 0:
            groups[candidate] = known.setdefault((int(sizes[candidate]), checksum), candidate)
    return groups


def _with_shared_key(candidates: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the candidates that share their key with another, in the order of the keys."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    return candidates[order[np.append(same, False) | np.append(False, same)]] if len(order) else candidates


def _map_integers(
    function: Callable[[Item], int], items: Iterable[Item], threads: int, *, most: int
) -> npt.NDArray[np.int64]:
    """Returns ``function`` of every item, computed on threads that take up to ``most`` at a time."""
    some_at_once = group_items(items, lambda _: 0, max_items=most)
    some_results = map_in_order(lambda some: list(map(function, some)), some_at_once, threads)
    return np.fromiter(chain.from_iterable(some_results), np.int64)


def _end_checksum(table: RowTable, number: int, size: int) -> int:
    try:
        end = table.location(number).read_range(max(0, size - _END_BYTES), _END_BYTES)
        return int(google_crc32c.value(end))
    except OSError:
        # The conversion itself will say so.
        return 0


def _checksum(table: RowTable, number: int) -> int:
    known = table.checksum(number)
    if known >= 0:
        return known
    try:
        return int(google_crc32c.value(table.location(number).read()))
    except OSError:
        # The conversion itself will say so.
        return -1
