"""Validates a data set: reads every record and reports every finding."""

import json
from pathlib import Path

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.log import log_result, timed
from imgpipe.components.common.plural import plural
from imgpipe.components.storage import atomic_write
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.checks import (
    argument_findings,
    class_findings,
    count_findings,
    name_findings,
    size_findings,
)
from imgpipe.components.validate.duplicates import add_duplicate_findings
from imgpipe.components.validate.findings import (
    ERROR,
    WARNING,
    Findings,
    findings_json,
    log_findings,
    raise_if_errors,
)
from imgpipe.components.validate.reading import DatasetReader, read_dataset
from imgpipe.components.validate.report import validation_report


def validate(
    manifest: Manifest,
    folder: Path,
    arguments: ValidateArguments,
    *,
    check_sizes: bool = True,
    read: DatasetReader = read_dataset,
) -> Findings:
    """Reads every shard of every split and checks the data against its manifest and the training arguments.

    For a split that could not be read completely, the manifest's numbers of images are checked, so that one
    damaged record does not cause further findings.

    Args:
        manifest: The data set's manifest.
        folder: The folder of the manifest; the shards' paths are relative to it.
        arguments: The training arguments.
        check_sizes: Whether the images are compared with the size to which training scales them.
        read: Reads the shards.
    """
    reading = read(manifest, folder, arguments.max_image_pixels)
    counts, examples = {}, {}
    for name, split in reading.splits.items():
        declared = manifest.splits[name]
        use_declared = not split.complete and len(declared.images_per_label) == manifest.num_classes
        counts[name] = declared.images_per_label if use_declared else tuple(split.images_per_label)
        if manifest.multi_label:
            examples[name] = split.images if split.complete else declared.examples
        else:
            examples[name] = sum(counts[name])
    first_of_label = {name: split.first_of_label for name, split in reading.splits.items()}
    found = reading.findings
    found.extend(count_findings(manifest, reading))
    found.extend(argument_findings(manifest, examples, arguments))
    found.extend(
        class_findings(manifest.labels, counts, examples, first_of_label, multi_label=manifest.multi_label)
    )
    found.extend(name_findings(reading))
    if check_sizes:
        found.extend(size_findings(reading, arguments.trained_image_size))
    add_duplicate_findings(found, reading.equal_images, manifest, folder)
    return Findings(
        manifest=manifest,
        arguments=arguments,
        counts={name: tuple(split.images_per_label) for name, split in reading.splits.items()},
        examples={name: split.images for name, split in reading.splits.items()},
        formats=dict(sorted(reading.formats.items())),
        sizes=reading.image_sizes,
        samples=tuple(tuple(samples) for samples in reading.samples),
        findings=tuple(sorted(found.kept, key=lambda finding: finding.severity != ERROR)),
        kinds=dict(found.counts),
    )


def validate_to_files(
    manifest: Manifest,
    folder: Path,
    report: Path,
    summary: Path,
    arguments: ValidateArguments,
    *,
    check_sizes: bool = True,
    read: DatasetReader = read_dataset,
) -> None:
    """Validates a data set, writes the report and the summary, then raises if there is an error.

    Args:
        manifest: The data set's manifest.
        folder: The folder that the shards' paths are relative to.
        report: Where to write the HTML page.
        summary: Where to write the findings as JSON.
        arguments: The training arguments.
        check_sizes: As in ``validate``.
        read: As in ``validate``.

    Raises:
        InvalidDataError: if any error is about the data.
        InvalidArgumentError: if there are errors, all of them about arguments.
        InterruptedRunError: if a shard is in a remote store, which cannot be reached.
    """
    with timed("validated", "validate: all shards were read"):
        findings = validate(manifest, folder, arguments, check_sizes=check_sizes, read=read)
    log_findings(findings)
    with atomic_write(summary) as file:
        text = json.dumps(findings_json(findings), ensure_ascii=False, indent=1)
        file.write_text(text + "\n", encoding="utf-8", errors="replace")
    with atomic_write(report) as file:
        file.write_text(validation_report(findings), encoding="utf-8", errors="replace")
    errors, warnings = findings.number_of(ERROR), findings.number_of(WARNING)
    images, labels = sum(findings.examples.values()), manifest.num_classes
    log_result(
        "validate",
        f"{plural(images, 'image')}, {plural(labels, 'label')}, "
        f"{plural(errors, 'error')}, {plural(warnings, 'warning')}",
        errors=errors,
        warnings=warnings,
        examples=findings.examples,
    )
    raise_if_errors(findings, report)
