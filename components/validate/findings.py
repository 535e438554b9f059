"""What a validation found, and how it is told: in the log, as JSON, as one error."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.common.html_page import Thumbnail
from imgpipe.components.common.log import log_event
from imgpipe.components.validate.arguments import ValidateArguments

Severity = Literal["error", "warning"]
ERROR: Severity = "error"
WARNING: Severity = "warning"

# The kinds of findings that leave records unread.
UNREAD_KINDS = ("missing_shard", "damaged_record", "invalid_record")
FORMAT_VERSION = 1
# A data set in which every record is wrong must not fill the memory with the words for it.
KEPT_PER_KIND = 10_000
LOGGED_PER_KIND = 20
RAISED = 10


@dataclass(frozen=True)
class Finding:
    """Something wrong (error) or doubtful (warning) about the data or the arguments.

    Attributes:
        severity: ``error`` fails the step, ``warning`` does not.
        kind: What sort of finding, e.g. ``damaged_record``: constant, for programs to look for.
        problem: What is wrong, with names and numbers.
        where: Shard and record, with the file name of the image if known; may be empty.
        remedy: What the user can do about it.
        about_arguments: Whether an argument contradicts the data, rather than the data being wrong.
        thumbnails: Small pictures of what is meant.
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
    """Collects findings; of one kind it keeps the first 10,000 and counts the rest."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Appends a finding."""
        self.counts[finding.kind] += 1
        if self.counts[finding.kind] <= KEPT_PER_KIND:
            self.kept.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Appends several findings."""
        for finding in findings:
            self.add(finding)


@dataclass(frozen=True)
class Range:
    """The smallest, the median (the lower one of two) and the largest of many whole numbers."""

    minimum: int
    median: int
    maximum: int


@dataclass(frozen=True)
class Bucket:
    """How many images have a shorter side of ``minimum`` to ``maximum`` pixels; None is no limit."""

    minimum: int
    maximum: int | None
    images: int


@dataclass(frozen=True)
class ImageSizes:
    """The distribution of the images' sizes in pixels; the ranges are None without an image."""

    width: Range | None
    height: Range | None
    shorter_side: tuple[Bucket, ...]


@dataclass(frozen=True)
class Findings:
    """The outcome of a validation.

    Attributes:
        manifest: Of the data that was read.
        arguments: That the data was held against.
        counts: By split: how many images each label has, in the order of the labels, as counted.
        examples: By split: how many images there are.
        formats: How many images there are of each file format.
        sizes: The distribution of the images' sizes.
        samples: By label: a few training images, small; empty for a label without.
        findings: Errors first, in the order in which they were found.
        kinds: How many findings there are of each kind, those that were not kept included.
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

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that fail the step."""
        return tuple(finding for finding in self.findings if finding.severity == ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that do not."""
        return tuple(finding for finding in self.findings if finding.severity == WARNING)

    def number_of(self, severity: Severity) -> int:
        """Returns how many findings there are of a severity, those that were not kept included."""
        kinds = {finding.kind for finding in self.findings if finding.severity == severity}
        return sum(self.kinds[kind] for kind in kinds)


def findings_json(findings: Findings) -> dict[str, Any]:
    """Returns everything but the pictures as JSON values; equal data give equal values."""
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
    """Writes a line for each finding, of each kind the first 20 and then how many more there are."""
    logged: Counter[str] = Counter()
    for finding in findings.findings:
        logged[finding.kind] += 1
        if logged[finding.kind] > LOGGED_PER_KIND:
            continue
        where = f" ({finding.where})" if finding.where else ""
        log_event(
            "finding",
            f"validate: {finding.severity}: {finding.problem}{where}",
            severity=finding.severity.upper(),
            kind=finding.kind,
            problem=finding.problem,
            where=finding.where,
            remedy=finding.remedy,
        )
        more = findings.kinds[finding.kind] - LOGGED_PER_KIND
        if logged[finding.kind] == LOGGED_PER_KIND and more > 0:
            log_event(
                "findings_not_logged",
                f"validate: and {more:,} more of the kind {finding.kind}; the summary lists them",
                severity=finding.severity.upper(),
                kind=finding.kind,
                count=more,
            )


def raise_if_errors(findings: Findings) -> None:
    """Raises one error that lists about ten errors, some of each kind, and counts them; warnings pass.

    Raises:
        InvalidArgumentError: if every error is about an argument.
        InvalidDataError: if any is about the data.
    """
    errors = findings.errors
    if not errors:
        return
    error_class = InvalidArgumentError if all(one.about_arguments for one in errors) else InvalidDataError
    if len(errors) == 1:
        raise error_class(errors[0].problem, where=errors[0].where, remedy=errors[0].remedy)
    number = findings.number_of(ERROR)
    lines = [f"{number:,} errors were found:"]
    kinds = _by_kind(errors)
    # Some of every kind: a thousand damaged images must not hide the one label that is wrong.
    of_a_kind = max(1, RAISED // len(kinds))
    shown = [one for some in kinds.values() for one in some[:of_a_kind]]
    for place, one in enumerate(shown, start=1):
        lines.append(f"{place}. {one.problem}" + (f" ({one.where})" if one.where else ""))
        if one.remedy:
            lines.append(f"   what to do: {one.remedy}")
    if number > len(shown):
        counts = ", ".join(f"{findings.kinds[kind]:,} {kind}" for kind in kinds)
        lines.append(f"and {number - len(shown):,} more; by kind: {counts}")
    raise error_class("\n".join(lines), remedy="correct these; the step's report and summary list them")


def _by_kind(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds
