"""The findings of a validation, and how they are reported: in the log, as JSON, as one error."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.common.html_page import Thumbnail
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.validate.arguments import ValidateArguments

Severity = Literal["error", "warning"]
ERROR: Severity = "error"
WARNING: Severity = "warning"

# The kinds of findings after which the counts are incomplete.
UNREAD_KINDS = ("missing_shard", "damaged_record", "invalid_record")
FORMAT_VERSION = 1
# Bounds the memory for a data set in which every record is invalid.
MAX_KEPT_PER_KIND = 10_000
MAX_LOGGED_PER_KIND = 20
MAX_RAISED = 10


@dataclass(frozen=True)
class Finding:
    """Something wrong (error) or suspicious (warning) about the data or the arguments.

    Attributes:
        severity: ``error`` fails the step, ``warning`` does not.
        kind: A stable identifier for programs, e.g. ``damaged_record``.
        problem: The problem, with names and numbers.
        where: Shard and record, with the image's file name if known; may be empty.
        remedy: How to fix it.
        about_arguments: Whether an argument does not fit the data, as opposed to invalid data.
        thumbnails: Thumbnails of the images in question.
    """

    severity: Severity
    kind: str
    problem: str
    where: str = ""
    remedy: str = ""
    about_arguments: bool = False
    thumbnails: tuple[Thumbnail, ...] = ()


@dataclass
class FindingList:
    """Collects findings; keeps the first 10,000 of each kind and counts the rest."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Appends a finding, or only counts it if the list is full for its kind."""
        if not self.is_full(finding.kind):
            self.kept.append(finding)
        self.counts[finding.kind] += 1

    def is_full(self, kind: str) -> bool:
        """Whether further findings of this kind are only counted."""
        return self.counts[kind] >= MAX_KEPT_PER_KIND

    def count_more(self, kind: str, number: int) -> None:
        """Counts findings of a kind that were found, but not kept."""
        if number:
            self.counts[kind] += number

    def extend(self, findings: Iterable[Finding]) -> None:
        """Appends findings."""
        for finding in findings:
            self.add(finding)


@dataclass(frozen=True)
class Range:
    """Minimum, median (the lower of two) and maximum of a set of integers."""

    minimum: int
    median: int
    maximum: int


@dataclass(frozen=True)
class Bucket:
    """The number of images with a shorter side of ``minimum`` to ``maximum`` pixels; None = no limit."""

    minimum: int
    maximum: int | None
    images: int


@dataclass(frozen=True)
class ImageSizes:
    """The distribution of image sizes in pixels; the ranges are None if no image was decoded."""

    width: Range | None
    height: Range | None
    shorter_side: tuple[Bucket, ...]


@dataclass(frozen=True)
class Findings:
    """The result of a validation.

    Attributes:
        manifest: The manifest of the data that was read.
        arguments: The training arguments that the data was checked against.
        counts: By split: the number of images of each label as counted, in label order.
        examples: By split: the number of images.
        formats: By file format: the number of images.
        sizes: The distribution of image sizes.
        samples: By label: thumbnails of a few training images; empty for a label without any.
        findings: Errors first, then warnings, each in the order in which they were found.
        kinds: By kind: the number of findings, including those that were not kept.
    """

    manifest: Manifest
    arguments: ValidateArguments
    counts: dict[str, tuple[int, ...]]
    examples: dict[str, int]
    formats: dict[str, int]
    sizes: ImageSizes
    samples: tuple[tuple[Thumbnail, ...], ...]
    findings: tuple[Finding, ...]
    kinds: dict[str, int]

    def number_of(self, severity: Severity) -> int:
        """Returns the number of findings of a severity, including those that were not kept."""
        kinds = {finding.kind for finding in self.findings if finding.severity == severity}
        return sum(self.kinds[kind] for kind in kinds)


def findings_json(findings: Findings) -> dict[str, Any]:
    """Returns everything but the thumbnails as JSON values; equal data gives equal values."""
    labels = findings.manifest.labels
    return {
        "format_version": FORMAT_VERSION,
        "data_digest": findings.manifest.digest(),
        "arguments": asdict(findings.arguments),
        "labels": list(labels),
        "examples": findings.examples,
        "images_per_label": {
            name: dict(zip(labels, counts, strict=True)) for name, counts in findings.counts.items()
        },
        "formats": findings.formats,
        "image_sizes": asdict(findings.sizes),
        "errors": findings.number_of(ERROR),
        "warnings": findings.number_of(WARNING),
        "findings_per_kind": findings.kinds,
        "findings": [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "problem": finding.problem,
                "where": finding.where,
                "remedy": finding.remedy,
            }
            for finding in findings.findings
        ],
    }


def log_findings(findings: Findings) -> None:
    """Logs the first 20 findings of each kind, and the number of further ones."""
    logged: Counter[str] = Counter()
    for finding in findings.findings:
        logged[finding.kind] += 1
        if logged[finding.kind] > MAX_LOGGED_PER_KIND:
            continue
        where = f" ({finding.where})" if finding.where else ""
        log_event(
            "finding",
            f"validate: {finding.problem}{where}",
            severity=finding.severity.upper(),
            kind=finding.kind,
            problem=finding.problem,
            where=finding.where,
            remedy=finding.remedy,
        )
        more = findings.kinds[finding.kind] - MAX_LOGGED_PER_KIND
        if logged[finding.kind] == MAX_LOGGED_PER_KIND and more > 0:
            log_event(
                "findings_not_logged",
                f"validate: {plural(more, 'more finding')} of kind {finding.kind}; see the summary",
                severity=finding.severity.upper(),
                kind=finding.kind,
                count=more,
            )


def raise_if_errors(findings: Findings, report: Path) -> None:
    """Raises one error that lists about ten errors, some of each kind, with the total; ignores warnings.

    Args:
        findings: What was found.
        report: The file that lists all of them.

    Raises:
        InvalidArgumentError: if every error is about an argument.
        InvalidDataError: if any error is about the data.
    """
    errors = [finding for finding in findings.findings if finding.severity == ERROR]
    if not errors:
        return
    error_class = InvalidArgumentError if all(error.about_arguments for error in errors) else InvalidDataError
    if len(errors) == 1:
        raise error_class(errors[0].problem, where=errors[0].where, remedy=errors[0].remedy)
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for error in errors:
        by_kind[error.kind].append(error)
    # Some of each kind, so that a thousand damaged images do not hide one wrong label.
    shown_per_kind = max(1, MAX_RAISED // len(by_kind))
    shown = [error for kind_errors in by_kind.values() for error in kind_errors[:shown_per_kind]]
    total = findings.number_of(ERROR)
    lines = [f"{total:,} errors were found:"]
    for number, error in enumerate(shown, start=1):
        lines.append(f"{number}. {error.problem}" + (f" ({error.where})" if error.where else ""))
        if error.remedy:
            lines.append(f"   what to do: {error.remedy}")
    if total > len(shown):
        counts = ", ".join(f"{findings.kinds[kind]:,} {kind}" for kind in by_kind)
        lines.append(f"and {total - len(shown):,} more; by kind: {counts}")
    raise error_class("\n".join(lines), remedy=f"fix them; all are listed in {report}")
