"""The validation as one HTML page that stands alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.common.html_page import Thumbnail, render
from imgpipe.components.validate.findings import ERROR, UNREAD_KINDS, WARNING, Finding, Findings

# With more labels than this, the page shows as many of the smallest and of the largest as make it up.
_MOST_LABELS_SHOWN = 200
_SHOWN_PER_KIND = 100


@dataclass(frozen=True)
class _LabelRow:
    label: str
    train: int
    validation: int
    samples: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class _Kind:
    """The findings of one kind that the page shows, and how many more there are."""

    shown: tuple[Finding, ...]
    more: int


def validation_report(findings: Findings) -> str:
    """Writes the page that shows what is in a data set and what is wrong with it.

    Returns:
        The HTML of the page.
    """
    manifest = findings.manifest
    rows = _label_rows(findings)
    shown = _rows_shown(rows)
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
        rows=shown,
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
    nothing = (0,) * len(labels)
    return [
        _LabelRow(*row)
        for row in zip(
            labels,
            findings.counts.get(TRAIN, nothing),
            findings.counts.get(VALIDATION, nothing),
            findings.samples,
            strict=True,
        )
    ]


def _rows_shown(rows: Sequence[_LabelRow]) -> list[_LabelRow]:
    if len(rows) <= _MOST_LABELS_SHOWN:
        return list(rows)
    by_size = sorted(rows, key=lambda row: row.train)
    half = _MOST_LABELS_SHOWN // 2
    return by_size[:half] + by_size[-half:]


def _kinds(findings: Findings) -> list[_Kind]:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings.findings:
        by_kind[finding.kind].append(finding)
    return [
        _Kind(tuple(some[:_SHOWN_PER_KIND]), findings.kinds[kind] - len(some[:_SHOWN_PER_KIND]))
        for kind, some in by_kind.items()
    ]
