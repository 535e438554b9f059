"""Which images are for validation and test, and in which order images are written: drawn from the seed."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
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

    Of every label, each split gets its fraction, rounded to whole images, but at least one image if the
    label has enough; a label's last image stays in training. Rows of a group stay together, also
    across labels; a split may then get a little less or more than its share. What is drawn depends on the
    paths, the labels and the seed, not on the order of the rows.

    With several labels a row, the rarest label draws first, then the rarest of the others from what is left,
    and so on; rows without a label come last. So each label comes near its share, and the rare ones, for
    which a row more or less matters, first: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
    Multi-Label Data", 2011.

    Args:
        table: The rows.
        numbers: Those to be split.
        groups: For each of them its group.
        fractions: By split: the share to set aside; what is left is for training.
        seed: Another seed draws others.
        multi_label: Whether the rows' labels are texts of label sets.

    Returns:
        The numbers of the rows by split, ``train`` first.
    """
    keys = draw_keys(table, numbers, f"{seed} split")
    labels = table.label_indices(numbers)
    # 0 is training; then the other splits in their order; -1 is undecided.
    split_of_group = np.full(int(groups.max()) + 1 if len(groups) else 0, -1, np.int8)
    left = _RemainingGroups(table, labels, groups) if multi_label else None
    for places in (_rows_by_label_in_sets if multi_label else _rows_by_label)(table, labels):
        places = places[np.argsort(keys[places], kind="stable")]
        members, sizes = _groups_in_order(groups[places])
        for number, fraction in enumerate(fractions.values(), start=1):
            _draw_groups(number, _target_size(len(places), fraction), members, sizes, split_of_group, left)
        # What this label leaves over is for training, also where the image has another label.
        split_of_group[members[split_of_group[members] < 0]] = 0
    split_of_row = split_of_group[groups]
    return {
        TRAIN: numbers[split_of_row == 0],
        **{name: numbers[split_of_row == number] for number, name in enumerate(fractions, start=1)},
    }


class _RemainingGroups:
    """How many groups of each label are not held out: a rare label's draw must not use another one's last."""

    def __init__(self, table: RowTable, label_sets: npt.NDArray[np.uint32], groups: _Numbers) -> None:
        self._labels_of: dict[int, set[str]] = {}
        for group, label_set in zip(groups.tolist(), label_sets.tolist(), strict=True):
            self._labels_of.setdefault(group, set()).update(parse_label_set(table.label_names[label_set]))
        self._left = Counter(name for names in self._labels_of.values() for name in names)

    def is_last(self, group: int) -> bool:
        """Whether some label of the group would have no group left for training."""
        return any(self._left[name] == 1 for name in self._labels_of[group])

    def hold_out(self, group: int) -> None:
        """Counts a group that is put into another split than training."""
        self._left.subtract(self._labels_of[group])


def _rows_by_label(table: RowTable, labels: npt.NDArray[np.uint32]) -> Iterator[_Numbers]:
    """Yields the places of each label's rows, in the order of the labels' names."""
    for label in sorted(set(labels.tolist()), key=lambda label: table.label_names[label]):
        yield np.flatnonzero(labels == label)


def _rows_by_label_in_sets(table: RowTable, label_sets: npt.NDArray[np.uint32]) -> Iterator[_Numbers]:
    """Yields the places of the rows that have a label, the rarest label first; then of those without any."""
    names_of = {number: parse_label_set(table.label_names[number]) for number in set(label_sets.tolist())}
    sets_with: dict[str, list[int]] = {}
    for number, names in names_of.items():
        for name in names:
            sets_with.setdefault(name, []).append(number)
    places_of = {name: np.flatnonzero(np.isin(label_sets, some)) for name, some in sets_with.items()}
    for name in sorted(places_of, key=lambda name: (len(places_of[name]), name)):
        yield places_of[name]
    without = [number for number, names in names_of.items() if not names]
    if without:
        yield np.flatnonzero(np.isin(label_sets, without))


def shuffle_rows(table: RowTable, numbers: _Numbers, seed: int, split: str) -> _Numbers:
    """Returns the rows in the order in which they are written, whatever order they come in."""
    return numbers[np.argsort(draw_keys(table, numbers, f"{seed} order {split}"), kind="stable")]


def draw_keys(table: RowTable, numbers: _Numbers, seed: str) -> npt.NDArray[np.uint64]:
    """Returns a number for each row, drawn from the seed, the path and the label.

    BLAKE2b, so that it is equal everywhere and always, unlike ``hash()``; rows are drawn in the order of
    these numbers, without sorting or holding their texts.
    """
    start = hashlib.blake2b(seed.encode(), digest_size=8)

    def key(number: int) -> int:
        row_hash = start.copy()
        path = table.path(number).encode("utf-8", "surrogateescape")
        row_hash.update(b"\0%b\0%b" % (path, table.label_name(number).encode("utf-8", "surrogateescape")))
        return int.from_bytes(row_hash.digest(), "big")

    return np.fromiter((key(int(number)) for number in numbers), np.uint64, len(numbers))


def fractions_of(validation: float, test: float) -> dict[str, float]:
    """Returns the splits to draw with their shares."""
    return {VALIDATION: validation, **({TEST: test} if test else {})}


def _target_size(rows: int, fraction: float) -> int:
    return min(max(round(rows * fraction), 1), rows - 1)


def _groups_in_order(groups: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Returns the distinct groups in the order of their first rows, and how many rows each has."""
    distinct, firsts, counts = np.unique(groups, return_index=True, return_counts=True)
    order = np.argsort(firsts)
    return distinct[order], counts[order]


def _draw_groups(
    number: int,
    wanted: int,
    members: _Numbers,
    sizes: _Numbers,
    split_of_group: npt.NDArray[np.int8],
    groups_left: _RemainingGroups | None,
) -> None:
    """Puts undecided groups of a label, in their order, into split ``number`` until it has enough rows."""
    so_far = split_of_group[members]
    taken = int(sizes[so_far == number].sum())
    # For training, should nothing more be taken.
    left = int(sizes[so_far <= 0].sum())
    free = [
        (group, size)
        for group, size, split in zip(members.tolist(), sizes.tolist(), so_far.tolist(), strict=True)
        if split < 0 and not (groups_left and groups_left.is_last(group))
    ]
    for group, size in free:
        if taken >= wanted:
            return
        if taken + size <= wanted and size < left and not (groups_left and groups_left.is_last(group)):
            split_of_group[group] = number
            if groups_left:
                groups_left.hold_out(group)
            taken, left = taken + size, left - size
    if wanted and not taken:
        # Every group has more rows than are wanted: the smallest, so that there is one at all.
        group, size = min(free, key=lambda one: one[1], default=(0, left))
        if size < left:
            split_of_group[group] = number
            if groups_left:
                groups_left.hold_out(group)
