"""Accuracy by slice: groups of images that differ in something other than their label."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.dataset import Manifest
from components.common.records import ImageRecord

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
    """

    name: str
    value: str
    examples: int
    top_1_accuracy: float


class SliceReader:
    """Tells a record's slices: by format, by size, and whether convert encoded it anew.

    What a record does not say (a user's own TFRecord file may hold image and label alone) divides nothing.
    """

    def __init__(self, manifest: Manifest) -> None:
        entries = manifest.made_by.get("reencoded") or ()
        self._encoded_anew = {entry.get("path") for entry in entries if isinstance(entry, dict)}

    def slices_of(self, record: ImageRecord) -> tuple[tuple[str, str], ...]:
        """Returns (name, value) pairs."""
        found = []
        if record.format:
            found.append(("format", record.format))
        if record.height and record.width:
            found.append(("shorter side", _size_group(min(record.height, record.width))))
        if self._encoded_anew and record.filename:
            found.append(("encoded anew", "yes" if record.filename in self._encoded_anew else "no"))
        return tuple(found)


def measure_slices(
    slices: Sequence[Iterable[tuple[str, str]]], right: NDArray[np.bool_ | Any]
) -> tuple[SliceMetrics, ...]:
    """Measures every slice of those names that divide the images at all.

    Args:
        slices: Of each example.
        right: bool [examples], whether the prediction is right.

    Returns:
        By name in the order in which they come, the largest slice first.
    """
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for of_example, hit in zip(slices, right.tolist(), strict=True):
        for name, value in of_example:
            groups[name][value].append(hit)
    return tuple(
        SliceMetrics(name, value, len(hits), sum(hits) / len(hits))
        for name, values in groups.items()
        if len(values) > 1
        for value, hits in sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def _size_group(pixels: int) -> str:
    lower = 0
    for bound in _SIZE_BOUNDS:
        if pixels < bound:
            return f"{lower} to {bound - 1} pixels" if lower else f"under {bound} pixels"
        lower = bound
    return f"{lower} pixels and more"
