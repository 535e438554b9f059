"""The validation report, as one self-contained HTML page."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from imgpipe.components.common.dataset import TRAIN, in_usual_order
from imgpipe.components.common.html_page import Thumbnail, render
from imgpipe.components.validate.findings import ERROR, UNREAD_KINDS, WARNING, Finding, Findings

# With more labels, the page shows half as many of the smallest and half as many of the largest.
_MAX_LABELS_SHOWN = 200
_MAX_SHOWN_PER_KIND = 100
_MAX_REENCODED_SHOWN = 200
# A label, its number of images in each split, and thumbnails.
_LabelRow = tuple[str, tuple[int, ...], tuple[Thumbnail, ...]]


def validation_report(findings: Findings) -> str:
    """Returns the HTML of the page."""
    manifest = replace(findings.manifest, splits=in_usual_order(findings.manifest.splits))
    findings = replace(
        findings,
        manifest=manifest,
        counts=in_usual_order(findings.counts),
        examples=in_usual_order(findings.examples),
    )
    rows = _label_rows(findings)
    # The labels with training images, the rarest first.
    images_and_labels = zip(findings.counts.get(TRAIN, ()), manifest.labels, strict=False)
    trained = sorted((images, label) for images, label in images_and_labels if images)
    reencoded = manifest.made_by.get("reencoded") or ()
    return render(
        "validation.html",
        "imgpipe.components.validate",
        findings=findings,
        digest=manifest.digest(),
        incomplete=not set(findings.kinds).isdisjoint(UNREAD_KINDS),
        images=sum(findings.examples.values()),
        errors=findings.number_of(ERROR),
        warnings=findings.number_of(WARNING),
        kinds=_kinds(findings),
        rows=_shown_rows(rows),
        all_labels=len(rows),
        largest=[max(numbers, default=0) for numbers in findings.counts.values()],
        imbalance=(trained[0], trained[-1]) if len(trained) > 1 else None,
        reencoded=[(str(entry.get("path", "")), str(entry.get("reason", ""))) for entry in reencoded][
            :_MAX_REENCODED_SHOWN
        ],
        all_reencoded=len(reencoded),
        largest_bucket=max(bucket.images for bucket in findings.sizes.shorter_side),
        shards={name: len(split.shards) for name, split in manifest.splits.items()},
        gibibytes={
            name: sum(shard.bytes for shard in split.shards) / 2**30
            for name, split in manifest.splits.items()
        },
    )


def _label_rows(findings: Findings) -> list[_LabelRow]:
    labels = findings.manifest.labels
    counts = zip(*findings.counts.values(), strict=True) if findings.counts else [()] * len(labels)
    return sorted(zip(labels, counts, findings.samples, strict=True), key=lambda row: row[1][:1])


def _shown_rows(rows: Sequence[_LabelRow]) -> Sequence[_LabelRow]:
    if len(rows) <= _MAX_LABELS_SHOWN:
        return rows
    half = _MAX_LABELS_SHOWN // 2
    return [*rows[:half], *rows[-half:]]


def _kinds(findings: Findings) -> list[tuple[list[Finding], int]]:
    """Returns the findings of each kind that the page shows, and the number of all of them."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings.findings:
        by_kind[finding.kind].append(finding)
    return [(found[:_MAX_SHOWN_PER_KIND], findings.kinds[kind]) for kind, found in by_kind.items()]
