"""The page of an audit, in one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgpipe.components.audit.findings import KINDS, Finding
from imgpipe.components.audit.inspection import Inspection
from imgpipe.components.audit.learning_curve import Curve
from imgpipe.components.common.dataset import Manifest, in_usual_order
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.html_page import (
    LineChart,
    Series,
    Thumbnail,
    line_chart,
    render,
    thumbnail_source,
)

if TYPE_CHECKING:
    from imgpipe.components.audit.audit import Audit

_MAX_SHOWN_PER_KIND = 150
_PIXELS, _QUALITY = 128, 70
# With the one of all images, as many as the chart has colors.
_MAX_CURVES = 4
# As in the evaluation's report.
_MAX_PICTURE_BYTES = 3_300_000
_ABOUT = {
    "wrong label": "Other images suggest another label. The number is the probability that it is wrong.",
    "copy with another label": "The same picture under two labels: at most one of them is correct.",
    "copy in another split": "The same picture in two splits: the measured accuracy is too high.",
    "placeholder": "Many equal images under different names, such as the picture of a missing photo.",
    "blank": "Images that show nothing.",
    "dark": "Images whose brightest parts are dark.",
    "blurred": "Images without detail at the size at which a network sees them.",
    "copy": "The same picture several times in one split, with one label.",
}


@dataclass(frozen=True)
class _Entry:
    """A finding on the page: the image, and the one that it is a copy of."""

    picture: Thumbnail
    copied: Thumbnail | None


@dataclass(frozen=True)
class _Kind:
    """The findings of one kind that the page shows, and the number of all of them."""

    name: str
    about: str
    entries: tuple[_Entry, ...]
    count: int


def audit_report(manifest: Manifest, folder: Path, inspection: Inspection, audit: Audit) -> str:
    """Returns the HTML of the page.

    Args:
        manifest: The data set's manifest.
        folder: Its folder; the images that are shown are read again.
        inspection: The images.
        audit: What was found.
    """
    shown = {
        kind: [finding for finding in audit.findings if finding.kind == kind][:_MAX_SHOWN_PER_KIND]
        for kind in KINDS
    }
    numbers = {
        number
        for findings in shown.values()
        for finding in findings
        for number in (finding.number, finding.other)
        if number is not None
    }
    sources = _pictures(manifest, folder, numbers)
    # The first of each kind, then the second of each, and so on: as many as the page has room for.
    left = _MAX_PICTURE_BYTES
    for rank in range(_MAX_SHOWN_PER_KIND):
        for findings in shown.values():
            for number in (findings[rank].number, findings[rank].other) if rank < len(findings) else ():
                if number is not None:
                    left -= len(sources[number])
                    sources[number] = sources[number] if left >= 0 else ""
    return render(
        "audit.html",
        "imgpipe.components.audit",
        images=len(inspection.images),
        splits={name: split.examples for name, split in in_usual_order(manifest.splits).items()},
        digest=manifest.digest(),
        searched=audit.searched,
        not_searched=audit.not_searched,
        labels=inspection.labels,
        not_judged=audit.not_judged,
        curves=sorted(audit.curves, key=lambda curve: (bool(curve.name), -curve.gain)),
        curve_chart=_curve_chart(audit.curves),
        shortcuts=audit.shortcuts,
        kinds=[
            _Kind(kind, _ABOUT[kind], _entries(findings, inspection, sources), audit.counts[kind])
            for kind, findings in shown.items()
            if findings
        ],
    )


def _curve_chart(curves: Sequence[Curve]) -> LineChart:
    """Returns the curve of all images, and those of the labels that gain most."""
    shown = [*curves[:1], *sorted(curves[1:], key=lambda curve: -curve.gain)[:_MAX_CURVES]]
    return line_chart(
        [Series(curve.name or "all images", curve.points) for curve in shown],
        x_name="images learned from",
        y_name="accuracy",
        y_maximum=1.0,
    )


def _entries(
    findings: Sequence[Finding], inspection: Inspection, sources: dict[int, str]
) -> tuple[_Entry, ...]:
    def picture(number: int, *captions: str) -> Thumbnail:
        image = inspection.images[number]
        return Thumbnail(sources[number], (*captions, image.path), f"{image.split}: {image.path}")

    entries = []
    for finding in findings:
        image = inspection.images[finding.number]
        label = inspection.label_of(finding.number)
        suggestion = f"suggestion: {finding.suggestion}" if finding.suggestion else "please look"
        own = picture(finding.number, f"{label} ({image.split}), {finding.score:.2f}", suggestion)
        copied = None
        if finding.other is not None:
            split = inspection.images[finding.other].split
            copied = picture(finding.other, f"{inspection.label_of(finding.other)} ({split})", "stays")
        entries.append(_Entry(own, copied))
    return tuple(entries)


def _pictures(manifest: Manifest, folder: Path, numbers: set[int]) -> dict[int, str]:
    """Returns data URIs by the number of the image."""
    found, first = {}, 0
    for split in in_usual_order(manifest.splits).values():
        wanted = {number - first for number in numbers if first <= number < first + split.examples}
        records = read_split(folder, split, multi_label=manifest.multi_label) if wanted else ()
        for index, record in enumerate(records):
            if index in wanted:
                found[first + index] = thumbnail_source(record.encoded, pixels=_PIXELS, quality=_QUALITY)
        first += split.examples
    return found
