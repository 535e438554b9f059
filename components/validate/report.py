"""The validation report, as one self-contained HTML page."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.common.html_page import Thumbnail, render
from imgpipe.components.validate.findings import ERROR, UNREAD_KINDS, WARNING, Finding, Findings

# With more labels, the page shows half as many of the smallest and half as many of the largest.
_MAX_LABELS_SHOWN = 200
_MAX_SHOWN_PER_KIND = 100


@dataclass(frozen=True)
class _LabelRow:
    label: str
    train: int
    validation: int
    samples: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class _Kind:
    """The findings of one kind that the page shows, and the number of further ones."""

    shown: tuple[Finding, ...]
    more: int


def validation_report(findings: Findings) -> str:
    """Returns the HTML of the page."""
    manifest = findings.manifest
    rows = _label_rows(findings)
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
        largest=max((max(row.train, row.validation) for row in rows), default=0),
        largest_bucket=max(bucket.images for bucket in findings.sizes.shorter_side),
        shards={name: len(split.shards) for name, split in manifest.splits.items()},
        gibibytes={
            name: sum(shard.bytes for shard in split.shards) / 2**30
            for name, split in manifest.splits.items()
        },
    )


def _label_rows(findings: Findings) -> list[_LabelRow]:
    labels = findings.manifest.labels
    no_images = (0,) * len(labels)
    train, validation = (findings.counts.get(name, no_images) for name in (TRAIN, VALIDATION))
    return [_LabelRow(*row) for row in zip(labels, train, validation, findings.samples, strict=True)]


def _shown_rows(rows: Sequence[_LabelRow]) -> Sequence[_LabelRow]:
    if len(rows) <= _MAX_LABELS_SHOWN:
        return rows
    by_size = sorted(rows, key=lambda row: row.train)
    half = _MAX_LABELS_SHOWN // 2
    return by_size[:half] + by_size[-half:]


def _kinds(findings: Findings) -> list[_Kind]:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings.findings:
        by_kind[finding.kind].append(finding)
    return [
        _Kind(shown := tuple(kind_findings[:_MAX_SHOWN_PER_KIND]), findings.kinds[kind] - len(shown))
        for kind, kind_findings in by_kind.items()
    ]
