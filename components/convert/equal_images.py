"""Finds the rows whose images are equal byte for byte, without reading more files than it must."""

import hashlib
from itertools import chain

import google_crc32c
import numpy as np
import numpy.typing as npt

from components.common.storage import read_file
from components.convert.parallel import batches, in_order
from components.convert.row_table import RowTable


def groups_of_equal_images(
    table: RowTable, numbers: npt.NDArray[np.int64], threads: int
) -> npt.NDArray[np.int64]:
    """Returns a group for each of some rows: equal for rows with equal images, else different.

    Only files of equal size at different places are read. Two images count as equal when size and
    CRC-32C are; that two others of one size share a checksum happens once in four thousand million
    pairs, and then they merely stay in one split.

    Args:
        table: The rows.
        numbers: Which of them.
        threads: How many files are read at once.
    """
    places = np.fromiter((_place(table, int(number)) for number in numbers), np.uint64, len(numbers))
    first_of_place, place_of_row = _distinct(places)
    del places
    group_of_place = _equal_files(table, numbers[first_of_place], threads)
    groups: npt.NDArray[np.int64] = group_of_place[place_of_row]
    return groups


def _distinct(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
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


def _place(table: RowTable, number: int) -> int:
    # Eight bytes for each path: a set of the paths themselves would be the largest thing in memory.
    location = table.location(number).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(location, digest_size=8).digest(), "big")


def _equal_files(table: RowTable, files: npt.NDArray[np.int64], threads: int) -> npt.NDArray[np.int64]:
    sizes = table.sizes(files)
    order = np.argsort(sizes, kind="stable")
    by_size = sizes[order]
    has_partner = np.zeros(len(order), bool)
    if len(order) > 1:
        same = by_size[1:] == by_size[:-1]
        has_partner[1:] |= same
        has_partner[:-1] |= same
    groups = np.arange(len(files))
    candidates = order[has_partner]
    known: dict[tuple[int, int], int] = {}

    def checksums_of(some: list[int]) -> list[int]:
        return [_checksum(table, int(files[candidate])) for candidate in some]

    listed = (int(candidate) for candidate in candidates)
    some_at_once = batches(listed, lambda candidate: int(sizes[candidate]))
    checksums = chain.from_iterable(in_order(checksums_of, some_at_once, threads))
    for candidate, checksum in zip(candidates, checksums, strict=True):
        if checksum >= 0:
            key = (int(sizes[candidate]), checksum)
            groups[candidate] = known.setdefault(key, int(candidate))
    return groups


def _checksum(table: RowTable, number: int) -> int:
    known = table.checksum(number)
    if known >= 0:
        return known
    try:
        return int(google_crc32c.value(read_file(table.location(number))))
    except OSError:
        # The conversion itself will say so.
        return -1
