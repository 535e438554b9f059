"""Draws validation and test images, and the order in which images are written, from the seed."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from imgpipe.components.common.dataset import TRAIN
from imgpipe.components.convert.label_set import parse_label_set
from imgpipe.components.convert.row_table import RowTable

_Numbers = npt.NDArray[np.int64]


def split_rows(
    table: RowTable,
    numbers: _Numbers,
    groups: _Numbers,
    fractions: Mapping[str, float],
    seed: int,
    *,
    multi_label: bool = False,
) -> dict[str, _Numbers]:
    """Draws splits from the rows, label by label.

    Each split gets its fraction of every label's images, rounded, but at least one image if the label has
    enough; a label's last image stays in training. Rows of a group stay together, even if their labels
    differ; a split may then get slightly less or more than its fraction. The result depends on the paths, the
    labels and the seed, not on the order of the rows.

    With several labels per row, the rarest label is drawn first, then the rarest of the others from the
    remaining rows, and so on; rows without a label are drawn last. Each label thus gets close to its
    fraction, the rare ones, for which a single row matters, closest: Sechidis, Tsoumakas and Vlahavas, "On
    the Stratification of Multi-Label Data", 2011.

    Args:
        table: The rows.
        numbers: The numbers of the rows to split.
        groups: The group of each of these rows.
        fractions: The fraction to set aside for each split; the rest is for training.
        seed: The seed of the draw.
        multi_label: Whether the rows' labels are label sets.

    Returns:
        The numbers of the rows by split, ``train`` first.
    """
    keys = draw_keys(table, numbers, f"{seed} split")
    labels = table.label_indices(numbers)
    # 0 = training, 1, 2, ... = the splits of ``fractions``, -1 = undecided.
    split_of_group = np.full(int(groups.max()) + 1 if len(groups) else 0, -1, np.int8)
    remaining = _RemainingGroups(table, labels, groups) if multi_label else None
    for rows in (_rows_by_label_in_sets if multi_label else _rows_by_label)(table, labels):
        rows = rows[np.argsort(keys[rows], kind="stable")]
        members, sizes = _groups_in_order(groups[rows])
        for number, fraction in enumerate(fractions.values(), start=1):
            target = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
            _draw_groups(number, target, members, sizes, split_of_group, remaining)
        # The rest of this label's images is for training, even if they have other labels.
        split_of_group[members[split_of_group[members] < 0]] = 0
    split_of_row = split_of_group[groups]
    return {
        TRAIN: numbers[split_of_row == 0],
        **{name: numbers[split_of_row == number] for number, name in enumerate(fractions, start=1)},
    }


class _RemainingGroups:
    """Counts each label's groups that are not held out, so that every label keeps one for training."""

    def __init__(self, table: RowTable, label_sets: npt.NDArray[np.uint32], groups: _Numbers) -> None:
        self._labels_of: dict[int, set[str]] = {}
        for group, label_set in zip(groups.tolist(), label_sets.tolist(), strict=True):
            self._labels_of.setdefault(group, set()).update(parse_label_set(table.label_names[label_set]))
        self._counts = Counter(name for names in self._labels_of.values() for name in names)

    def is_last(self, group: int) -> bool:
        """Returns whether the group is the last one of any of its labels."""
        return any(self._counts[name] == 1 for name in self._labels_of[group])

    def hold_out(self, group: int) -> None:
        """Counts a group as not available for training."""
        self._counts.subtract(self._labels_of[group])


def _rows_by_label(table: RowTable, labels: npt.NDArray[np.uint32]) -> Iterator[_Numbers]:
    for label in sorted(set(labels.tolist()), key=lambda label: table.label_names[label]):
        yield np.flatnonzero(labels == label)


def _rows_by_label_in_sets(table: RowTable, label_sets: npt.NDArray[np.uint32]) -> Iterator[_Numbers]:
    """Yields the indices of each label's rows, the rarest label first; finally the rows without a label."""
    names_of = {number: parse_label_set(table.label_names[number]) for number in set(label_sets.tolist())}
    sets_with: dict[str, list[int]] = {}
    for number, names in names_of.items():
        for name in names:
            sets_with.setdefault(name, []).append(number)
    rows_of = {name: np.flatnonzero(np.isin(label_sets, numbers)) for name, numbers in sets_with.items()}
    for name in sorted(rows_of, key=lambda name: (len(rows_of[name]), name)):
        yield rows_of[name]
    empty_sets = [number for number, names in names_of.items() if not names]
    if empty_sets:
        yield np.flatnonzero(np.isin(label_sets, empty_sets))


def shuffle_rows(table: RowTable, numbers: _Numbers, seed: int, split: str) -> _Numbers:
    """Returns the rows in the order in which they are written, which does not depend on their input order."""
    return numbers[np.argsort(draw_keys(table, numbers, f"{seed} order {split}"), kind="stable")]


def draw_keys(table: RowTable, numbers: _Numbers, seed: str) -> npt.NDArray[np.uint64]:
    """Returns a sort key for each row, derived from the seed, the path and the label.

    BLAKE2b gives the same keys on every machine and in every process, unlike ``hash()``. Rows are drawn in
    the order of these keys, without sorting or storing their texts.
    """
    start = hashlib.blake2b(seed.encode(), digest_size=8)

    def key(number: int) -> int:
        row_hash = start.copy()
        path = table.path(number).encode("utf-8", "surrogateescape")
        row_hash.update(b"\0%b\0%b" % (path, table.label_name(number).encode("utf-8", "surrogateescape")))
        return int.from_bytes(row_hash.digest(), "big")

    return np.fromiter((key(int(number)) for number in numbers), np.uint64, len(numbers))


def _groups_in_order(groups: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Returns the distinct groups, ordered by their first rows, and the number of rows of each."""
    distinct, firsts, counts = np.unique(groups, return_index=True, return_counts=True)
    order = np.argsort(firsts)
    return distinct[order], counts[order]


def _draw_groups(
    number: int,
    target_size: int,
    members: _Numbers,
    sizes: _Numbers,
    split_of_group: npt.NDArray[np.int8],
    remaining: _RemainingGroups | None,
) -> None:
    """Assigns undecided groups of a label, in order, to split ``number`` until it has enough rows."""
    splits = split_of_group[members]
    drawn = int(sizes[splits == number].sum())
    # The rows that would be left for training.
    left = int(sizes[splits <= 0].sum())
    free = [
        (group, size)
        for group, size, split in zip(members.tolist(), sizes.tolist(), splits.tolist(), strict=True)
        if split < 0 and not (remaining and remaining.is_last(group))
    ]
    for group, size in free:
        if drawn >= target_size:
            return
        if drawn + size <= target_size and size < left and not (remaining and remaining.is_last(group)):
            split_of_group[group] = number
            if remaining:
                remaining.hold_out(group)
            drawn, left = drawn + size, left - size
    if target_size and not drawn:
        # Every group exceeds the target size: draw the smallest, so that the split is not empty.
        group, size = min(free, key=lambda group_and_size: group_and_size[1], default=(0, left))
        if size < left:
            split_of_group[group] = number
            if remaining:
                remaining.hold_out(group)
