"""Audits a data set: finds likely wrong labels, copies, useless images and shortcuts, and changes nothing."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.audit.copies import copy_findings, find_copies
from imgpipe.components.audit.features import image_features
from imgpipe.components.audit.findings import (
    KINDS,
    NEED_ONE_LABEL,
    WRONG_LABEL,
    Finding,
    findings_csv,
    relabel,
    sort_findings,
)
from imgpipe.components.audit.inspection import Inspection, inspect_images
from imgpipe.components.audit.learning_curve import Curve, learning_curves
from imgpipe.components.audit.quality import find_useless_images
from imgpipe.components.audit.report import audit_report
from imgpipe.components.audit.shortcuts import Shortcut, find_shortcuts
from imgpipe.components.audit.wrong_labels import MIN_IMAGES_OF_CLASS, find_wrong_labels
from imgpipe.components.common.dataset import Manifest, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.log import log_event, log_result, timed
from imgpipe.components.common.plural import plural
from imgpipe.components.convert.decisions import check_undecided
from imgpipe.components.storage import atomic_write, check_writable

DECISIONS_NAME, REPORT_NAME, SUMMARY_NAME = "decisions.csv", "audit.html", "audit.json"
_FEATURES_FOLDER = "features"


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        findings: About single images, in the order of the table.
        shortcuts: Labels that a property of the files gives away.
        not_judged: The labels that were not judged: they have too few images, or no other label has enough.
        curves: The accuracy against the number of images: first of all, then of each label.
        not_searched: What was not searched for, because an image may have several labels.
    """

    findings: tuple[Finding, ...]
    shortcuts: tuple[Shortcut, ...]
    not_judged: tuple[str, ...]
    curves: tuple[Curve, ...] = ()
    not_searched: tuple[str, ...] = ()

    @property
    def searched(self) -> tuple[str, ...]:
        """The kinds of findings that were searched for."""
        return tuple(kind for kind in (*KINDS, *NEED_ONE_LABEL[1:]) if kind not in self.not_searched)

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def to_json(self, labels: Sequence[str]) -> dict[str, Any]:
        """Returns the content of audit.json."""
        return {
            "findings": self.counts,
            "shortcuts": [
                {"label": labels[shortcut.class_index], **dataclasses.asdict(shortcut)}
                for shortcut in self.shortcuts
            ],
            "labels_not_judged": list(self.not_judged),
            "searched": list(self.searched),
            "not_searched": list(self.not_searched),
            "learning_curves": [dataclasses.asdict(curve) for curve in self.curves],
        }


def audit(dataset_folder: Path, output: Path, arguments: AuditArguments) -> Audit:
    """Audits all images of all splits, and writes the page, the table of decisions and a summary.

    Args:
        dataset_folder: The folder that contains the data set's manifest; shards may be remote.
        output: The folder for the files; the features of the images are kept there for the next audit.
        arguments: How the images are compared.

    Raises:
        MissingInputError: if there is no data set in the folder.
        InvalidDataError: if a record is damaged.
        UnavailableError: if the network's weights are not on this machine and cannot be downloaded.
        OutputError: if the folder has decisions of an earlier audit, or cannot be written.
    """
    check_undecided(output / DECISIONS_NAME)
    manifest = read_manifest(dataset_folder)
    check_writable(output)
    with local_dataset(dataset_folder, *manifest.splits) as folder:
        manifest = read_manifest(folder)
        store = output / _FEATURES_FOLDER
        features = image_features(manifest, folder, arguments.audit_model_type, store)
        with timed("audited", "audit: all images were compared"):
            inspection = inspect_images(manifest, folder, arguments.max_image_pixels)
            result = audit_images(inspection, features, multi_label=manifest.multi_label)
        page = audit_report(manifest, folder, inspection, result)
    for name, text in {
        DECISIONS_NAME: findings_csv(inspection, result.findings),
        SUMMARY_NAME: json.dumps(result.to_json(manifest.labels), ensure_ascii=False, indent=1) + "\n",
        REPORT_NAME: page,
    }.items():
        with atomic_write(output / name) as file:
            file.write_text(text, encoding="utf-8", errors="replace")
    _log(manifest, result)
    return result


def audit_images(
    inspection: Inspection, features: Sequence[NDArray[np.float32]], *, multi_label: bool = False
) -> Audit:
    """Returns what the audit finds.

    Labels are judged only in data sets in which each image has one; ``Audit.not_searched`` says so.

    Args:
        inspection: The images.
        features: Of each layer, [images, features]; the last one is the network's output.
        multi_label: Whether an image may have several labels, or none.
    """
    useless = list(find_useless_images(inspection))
    copies = find_copies(inspection, features[-1])
    excluded = {finding.number for finding in useless if finding.suggestion}
    findings = [*useless, *copy_findings(inspection, copies, excluded)]
    labels = inspection.labels
    if multi_label:
        return Audit(tuple(sort_findings(findings)), (), labels, not_searched=NEED_ONE_LABEL)
    classes = np.array([image.classes[0] for image in inspection.images], np.int64)
    # One suggestion for each image: a person may accept all of them.
    dropped = {finding.number for finding in findings if finding.suggestion}
    findings += [
        Finding(
            WRONG_LABEL,
            doubt.number,
            doubt.score,
            "" if doubt.number in dropped else relabel(labels[doubt.suggested]),
        )
        for doubt in find_wrong_labels(features, classes, len(labels), copies.groups)
        if doubt.number not in excluded
    ]
    shortcuts = find_shortcuts(classes, [image.traits for image in inspection.images], len(labels))
    counts = np.bincount(classes, minlength=len(labels))
    few = tuple(label for label, count in zip(labels, counts, strict=True) if count < MIN_IMAGES_OF_CLASS)
    not_judged = few if len(labels) - len(few) > 1 else tuple(labels)
    curves = learning_curves(features[-1], classes, labels, copies.groups)
    return Audit(tuple(sort_findings(findings)), tuple(shortcuts), not_judged, tuple(curves))


def _log(manifest: Manifest, result: Audit) -> None:
    labels = manifest.labels
    for shortcut in result.shortcuts:
        log_event(
            "label_given_away",
            f"audit: {shortcut.trait} gives the label {labels[shortcut.class_index]!r} away: "
            f"{shortcut.share:.0%} of its images have {shortcut.value!r}, "
            f"{shortcut.share_of_others:.0%} of the others; a model may learn that instead of the picture",
            severity="WARNING",
            label=labels[shortcut.class_index],
            trait=shortcut.trait,
        )
    images = sum(split.examples for split in manifest.splits.values())
    found = ", ".join(f"{count:,} {kind}" for kind, count in result.counts.items()) or "no findings"
    shortcuts = f", {plural(len(result.shortcuts), 'label')} given away" if result.shortcuts else ""
    not_judged = f"; {plural(len(result.not_judged), 'label')} not judged" if result.not_judged else ""
    if result.not_searched:
        not_judged = (
            f"; not searched, because images may have several labels: {', '.join(result.not_searched)}"
        )
    log_result(
        "audit", f"{plural(images, 'image')}: {found}{shortcuts}{not_judged}", **result.to_json(labels)
    )
