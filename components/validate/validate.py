"""Validates a data set: every record is read, every finding is told."""

import json
from pathlib import Path

from imgpipe.components.common.dataset import Manifest, read_manifest
from imgpipe.components.common.log import log_result, timed
from imgpipe.components.storage.files import written_whole
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.checks import (
    argument_findings,
    class_findings,
    count_findings,
    name_findings,
    size_findings,
)
from imgpipe.components.validate.duplicates import duplicate_findings
from imgpipe.components.validate.findings import (
    ERROR,
    WARNING,
    Findings,
    findings_json,
    log_findings,
    raise_if_errors,
)
from imgpipe.components.validate.reading import Reading, read_dataset
from imgpipe.components.validate.report import validation_report


def validate(manifest: Manifest, folder: Path, arguments: ValidateArguments) -> Findings:
    """Reads every shard of every split and holds the data against its manifest and the arguments.

    A split that could not be read whole is judged by the numbers that the manifest has of it: one
    damaged record does not bring a tail of consequences.

    Args:
        manifest: Of the data.
        folder: Where the manifest lies; the shards' paths are relative to it.
        arguments: What the training will ask for.

    Returns:
        Every finding, and what was counted and measured.
    """
    reading = read_dataset(manifest, folder, arguments.max_image_pixels)
    counted = {name: tuple(split.images_per_label) for name, split in reading.splits.items()}
    judged = {
        name: counted[name]
        if split.complete or len(manifest.splits[name].images_per_label) != manifest.num_classes
        else manifest.splits[name].images_per_label
        for name, split in reading.splits.items()
    }
    judged_examples = {
        name: sum(counts) if not manifest.multi_label else _images(manifest, reading, name)
        for name, counts in judged.items()
    }
    found = reading.findings
    found.extend(count_findings(manifest, reading))
    found.extend(argument_findings(manifest, judged_examples, arguments))
    places = {name: split.first_of_label for name, split in reading.splits.items()}
    found.extend(
        class_findings(
            manifest.labels, judged, places, examples=judged_examples, multi_label=manifest.multi_label
        )
    )
    found.extend(name_findings(reading))
    found.extend(size_findings(reading, arguments.trained_image_size))
    found.extend(
        duplicate_findings(reading.images, manifest.labels, folder, multi_label=manifest.multi_label)
    )
    return Findings(
        manifest=manifest,
        arguments=arguments,
        counts=counted,
        examples={name: split.images for name, split in reading.splits.items()},
        formats=dict(sorted(reading.formats.items())),
        sizes=reading.image_sizes,
        samples=tuple(tuple(samples) for samples in reading.samples),
        findings=tuple(sorted(found.kept, key=lambda finding: finding.severity != ERROR)),
        kinds=dict(found.counts),
    )


def _images(manifest: Manifest, reading: Reading, name: str) -> int:
    """Returns the number of a split's images: as counted, or the manifest's if it was not read whole."""
    split = reading.splits[name]
    return split.images if split.complete else manifest.splits[name].examples


def validate_to_files(folder: Path, report: Path, summary: Path, arguments: ValidateArguments) -> None:
    """Validates the data set in a folder, writes the page and the summary, then fails if there is an error.

    Args:
        folder: Holds ``manifest.json``.
        report: Where to write the HTML page.
        summary: Where to write the findings as JSON.
        arguments: What the training will ask for.

    Raises:
        MissingInputError: if there is no manifest.
        InvalidDataError: if the manifest is no manifest, or any error is about the data.
        InvalidArgumentError: if there are errors, all of them about arguments.
    """
    validate_manifest_to_files(read_manifest(folder), folder, report, summary, arguments)


def validate_manifest_to_files(
    manifest: Manifest, folder: Path, report: Path, summary: Path, arguments: ValidateArguments
) -> None:
    """Validates the data that a manifest describes, writes page and summary, then fails if there is an error.

    Args:
        manifest: Of the data.
        folder: To which the paths of the shards are relative.
        report: Where to write the HTML page.
        summary: Where to write the findings as JSON.
        arguments: What the training will ask for.

    Raises:
        InvalidDataError: if any error is about the data.
        InvalidArgumentError: if there are errors, all of them about arguments.
        InterruptedRunError: if a shard lies in Cloud Storage, which cannot be reached.
    """
    with timed("validated", "validate: the shards were read"):
        findings = validate(manifest, folder, arguments)
    log_findings(findings)
    with written_whole(summary) as file:
        text = json.dumps(findings_json(findings), ensure_ascii=False, indent=1)
        file.write_text(text + "\n", encoding="utf-8", errors="replace")
    with written_whole(report) as file:
        file.write_text(validation_report(findings), encoding="utf-8", errors="replace")
    errors, warnings = findings.number_of(ERROR), findings.number_of(WARNING)
    log_result(
        "validate",
        f"{sum(findings.examples.values()):,} images, {manifest.num_classes:,} labels, "
        f"{errors:,} error{'s' if errors != 1 else ''}, {warnings:,} warning{'s' if warnings != 1 else ''}",
        errors=errors,
        warnings=warnings,
        examples=findings.examples,
    )
    raise_if_errors(findings)
