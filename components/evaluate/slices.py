"""Accuracy by slice: groups of images with something in common other than their label."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.records import ImageRecord

# The size groups, by the pixels of the shorter side, and the first size of each but the first one.
_SIZE_GROUPS = (
    "under 128 pixels",
    "128 to 255 pixels",
    "256 to 511 pixels",
    "512 to 1023 pixels",
    "1024 pixels and more",
)
_SIZE_BOUNDS = (128, 256, 512, 1024)


@dataclass(frozen=True)
class SliceMetrics:
    """The accuracy on the images of a slice.

    Attributes:
        name: The property, e.g. ``format``.
        value: Its value, e.g. ``PNG``.
        examples: Number of images.
        top_1_accuracy: Accuracy on these images.
        given: Whether the property is from the user's ``slices_csv`` rather than from the records.
    """

    name: str
    value: str
    examples: int
    top_1_accuracy: float
    given: bool = False


class SliceReader:
    """Finds the slices of a record: the user's, by format, by size, and whether convert re-encoded it.

    A property that a record lacks (a user's TFRecord file may have only image and label) gives no slice.

    Args:
        manifest: The dataset's manifest.
        given: (name, value) pairs by file name, from ``read_slices_csv``. These names override ours.

    Attributes:
        given_names: The names in ``given``.
        matched: Number of records so far that are in ``given``.
    """

    def __init__(
        self, manifest: Manifest, given: Mapping[str, tuple[tuple[str, str], ...]] | None = None
    ) -> None:
        self._given = given or {}
        self.given_names = frozenset(name for pairs in set(self._given.values()) for name, _ in pairs)
        self.matched = 0
        entries = manifest.made_by.get("reencoded") or ()
        self._reencoded = {entry.get("path") for entry in entries if isinstance(entry, dict)}

    def slices_of(self, record: ImageRecord) -> tuple[tuple[str, str], ...]:
        """Returns (name, value) pairs."""
        given = self._given.get(record.filename)
        self.matched += given is not None
        ours = [pair for pair in self._slices_from(record) if pair[0] not in self.given_names]
        return (*(given or ()), *ours)

    def _slices_from(self, record: ImageRecord) -> list[tuple[str, str]]:
        found = []
        if record.format:
            found.append(("format", record.format))
        if record.height and record.width:
            group = _SIZE_GROUPS[bisect(_SIZE_BOUNDS, min(record.height, record.width))]
            found.append(("shorter side", group))
        if self._reencoded and record.filename:
            found.append(("re-encoded", "yes" if record.filename in self._reencoded else "no"))
        return found


def compute_slices(
    slices: Sequence[Iterable[tuple[str, str]]],
    correct: NDArray[np.bool_ | Any],
    given_names: Container[str] = (),
) -> tuple[SliceMetrics, ...]:
    """Computes the accuracy of the user's slices, and of ours if a property has more than one value.

    Args:
        slices: The slices of each example.
        correct: bool [examples], whether the prediction is correct.
        given_names: The user's names.

    Returns:
        The slices, grouped by name in order of appearance, the largest first.
    """
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for pairs, hit in zip(slices, correct.tolist(), strict=True):
        for name, value in pairs:
            groups[name][value].append(hit)
    return tuple(
        SliceMetrics(name, value, len(hits), sum(hits) / len(hits), name in given_names)
        for name, values in groups.items()
        if len(values) > 1 or name in given_names
        for value, hits in sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
    )
