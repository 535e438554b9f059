"""Finds near-duplicates: scaled, recompressed or slightly cropped copies of an image."""

import numpy as np
import numpy.typing as npt

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import group_items, map_in_order
from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.convert.row_table import RowTable
from imgpipe.components.images.perceptual_hash import HASH_WORDS, perceptual_hash
from imgpipe.components.storage import PARALLEL_DOWNLOADS, Location

# Of 255 bits.
MAX_DIFFERENT_BITS = 32
# Of the mean red, green and blue, 0..255: a drawing in two colors is not a copy.
_MAX_COLOR_DIFFERENCE = 24
# Only images that share one of these 16-bit parts of the hash are compared.
_PARTS = 12
_BYTES = HASH_WORDS * 8

_Numbers = npt.NDArray[np.int64]


def group_near_duplicates(
    table: RowTable,
    numbers: _Numbers,
    groups: _Numbers,
    threads: int,
    images: ImageReader,
    max_pixels: int,
) -> _Numbers:
    """Returns coarser groups, in which near-duplicates of an image are in its group.

    One image of each group is read and decoded at a reduced size. Images that cannot be read, have less than
    64 pixels on a side or show almost nothing are near-duplicates of no image.

    Args:
        table: The rows.
        numbers: The numbers of the rows to group.
        groups: The group of each of these rows, which stays together.
        threads: The number of images that are decoded in parallel.
        images: Reads them.
        max_pixels: Images with more pixels are not decoded.
    """
    names, firsts = np.unique(groups, return_index=True)
    files = numbers[firsts]
    # A sample is enough to see whether images are remote; each download waits on its own thread.
    if any(not table.location(int(number)).is_local for number in files[::100]):
        threads = max(threads, PARALLEL_DOWNLOADS)
    limit = 1 if threads >= PARALLEL_DOWNLOADS else 16
    progress = Progress("convert", len(files), "images compared")

    def hashes_of(part: list[int]) -> list[bytes]:
        return [_hash_file(images, table.location(number), max_pixels) for number in part]

    hashes = bytearray()
    for part in map_in_order(hashes_of, group_items(files.tolist(), lambda _: 0, max_items=limit), threads):
        hashes += b"".join(part)
        progress.add(len(part))
    rows = np.frombuffer(hashes, np.uint8).reshape(-1, _BYTES + 3)
    has_hash = np.flatnonzero(rows.any(axis=1))
    roots = np.arange(len(files))
    roots[has_hash] = has_hash[group_hashes(rows[has_hash, :_BYTES], rows[has_hash, _BYTES:])]
    grouped: _Numbers = names[roots[np.searchsorted(names, groups)]]
    return grouped


def merge_groups(groups: _Numbers, others: _Numbers) -> _Numbers:
    """Returns the finest groups that keep the members of each group of both together."""
    roots = np.arange(len(groups))
    for members in (groups, others):
        _, firsts, inverse = np.unique(members, return_index=True, return_inverse=True)
        roots = unite_pairs(roots, firsts[inverse], np.arange(len(members)))
    return roots


def _hash_file(images: ImageReader, location: Location, max_pixels: int) -> bytes:
    try:
        found = perceptual_hash(images.read(location, again=True), max_pixels)
    except (OSError, MissingInputError):
        # The conversion will reject this row.
        found = None
    return b"\0" * (_BYTES + 3) if found is None else found[0].tobytes() + found[1].tobytes()


def group_hashes(
    hashes: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8], max_different_bits: int = MAX_DIFFERENT_BITS
) -> _Numbers:
    """Returns for each image the index of the first image of its group of near-duplicates.

    Args:
        hashes: uint8 [images, 32], from ``perceptual_hash``.
        colors: uint8 [images, 3], the mean colors.
        max_different_bits: The largest difference of two near-duplicates' hashes.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    parts = np.ascontiguousarray(hashes).view(np.uint16)
    colors = colors.astype(np.int16)
    roots = np.arange(len(hashes))
    for part in range(_PARTS):
        order = np.argsort(parts[:, part], kind="stable")
        keys = parts[order, part]
        # Neighbors at growing distances, as long as any two of them have the same part.
        begins = np.arange(len(order))
        for distance in range(1, len(order)):
            begins = begins[begins + distance < len(order)]
            begins = begins[keys[begins] == keys[begins + distance]]
            if not len(begins):
                break
            left, right = order[begins], order[begins + distance]
            apart = roots[left] != roots[right]
            left, right = left[apart], right[apart]
            different = np.bitwise_count(words[left] ^ words[right]).sum(axis=1, dtype=np.int64)
            is_near = (different <= max_different_bits) & (
                np.abs(colors[left] - colors[right]).max(axis=1, initial=0) <= _MAX_COLOR_DIFFERENCE
            )
            if is_near.any():
                roots = unite_pairs(roots, left[is_near], right[is_near])
    return roots


def unite_pairs(roots: _Numbers, left: _Numbers, right: _Numbers) -> _Numbers:
    """Returns the roots after the groups of each pair were united; a root is its group's lowest index."""
    parents = roots.copy()

    def find(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = int(parents[index])
        return index

    for first, second in zip(left.tolist(), right.tolist(), strict=True):
        low, high = sorted((find(first), find(second)))
        parents[high] = low
    while True:
        shorter = parents[parents]
        if np.array_equal(shorter, parents):
            return parents
        parents = shorter
