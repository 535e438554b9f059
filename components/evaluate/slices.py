"""Accuracy by slice: groups of images that differ in something other than their label."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.records import ImageRecord

# Upper ends, in pixels of the shorter side, of all size groups but the last.
_SIZE_BOUNDS = (128, 256, 512, 1024)


@dataclass(frozen=True)
class SliceMetrics:
    """The accuracy on the images of one slice.

    Attributes:
        name: What divides the images, e.g. ``format``.
        value: What these have in common, e.g. ``PNG``.
        examples: How many there are.
        top_1_accuracy: On them.
        given: Whether the user's file names it (``slices_csv``); otherwise the records tell it.
    """

    name: str
    value: str
    examples: int
    top_1_accuracy: float
    given: bool = False


class SliceReader:
    """Tells a record's slices: the user's, by format, by size, and whether convert encoded it anew.

    What a record does not say (a user's own TFRecord file may hold image and label alone) divides nothing.

    Args:
        manifest: Of the data set.
        given: (name, value) pairs by the record's file name, as ``read_slices_csv`` returns them. A name that
            stands there is the user's, also if it is one of ours.

    Attributes:
        given_names: The names that the user gives.
        matched: How many records the user's file named so far.
    """

    def __init__(
        self, manifest: Manifest, given: Mapping[str, tuple[tuple[str, str], ...]] | None = None
    ) -> None:
        self._given = given or {}
        self.given_names = frozenset(name for pairs in set(self._given.values()) for name, _ in pairs)
        self.matched = 0
        entries = manifest.made_by.get("reencoded") or ()
        self._encoded_anew = {entry.get("path") for entry in entries if isinstance(entry, dict)}

    def slices_of(self, record: ImageRecord) -> tuple[tuple[str, str], ...]:
        """Returns (name, value) pairs."""
        of_user = self._given.get(record.filename)
        self.matched += of_user is not None
        ours = [pair for pair in self._told_by(record) if pair[0] not in self.given_names]
        return (*(of_user or ()), *ours)

    def _told_by(self, record: ImageRecord) -> list[tuple[str, str]]:
        found = []
        if record.format:
            found.append(("format", record.format))
        if record.height and record.width:
            found.append(("shorter side", _size_group(min(record.height, record.width))))
        if self._encoded_anew and record.filename:
            found.append(("encoded anew", "yes" if record.filename in self._encoded_anew else "no"))
        return found


def measure_slices(
    slices: Sequence[Iterable[tuple[str, str]]],
    right: NDArray[np.bool_ | Any],
    given_names: Container[str] = (),
) -> tuple[SliceMetrics, ...]:
    """Measures every slice of the user's names, and of those of ours that divide the images at all.

    Args:
        slices: Of each example.
        right: bool [examples], whether the prediction is right.
        given_names: The names that the user gives.

    Returns:
        By name in the order in which they come, the largest slice first.
    """
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for of_example, hit in zip(slices, right.tolist(), strict=True):
        for name, value in of_example:
            groups[name][value].append(hit)
    return tuple(
        SliceMetrics(name, value, len(hits), sum(hits) / len(hits), name in given_names)
        for name, values in groups.items()
        if len(values) > 1 or name in given_names
        for value, hits in sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _size_group(pixels: int) -> str:
    lower = 0
    for bound in _SIZE_BOUNDS:
        if pixels < bound:
            return f"{lower} to {bound - 1} pixels" if lower else f"under {bound} pixels"
        lower = bound
    return f"{lower} pixels and more"
