"""Reads every record of one shard once, and keeps a small part of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import file_sha256
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.records import label_to_class
from imgpipe.components.common.tfrecord import RecordBlock, RecordLocation, read_record_blocks
from imgpipe.components.validate.equal_images import ImageTable
from imgpipe.components.validate.findings import ERROR, Finding, FindingList
from imgpipe.components.validate.record_checks import CheckedRecord, RecordChecker, record_name

_SAMPLES_PER_LABEL = 6
# Keeps the page at a few megabytes.
_MAX_SAMPLES = 300
# With records of tens of megabytes, each thread has only one block.
_MAX_PENDING_BYTES = 32_000_000
# Only the first findings of a kind have thumbnails.
MAX_WITH_THUMBNAIL = 20


@dataclass
class Extremes:
    """The images with the shortest and the longest shorter side: that side, and the size with the record."""

    smallest: tuple[int, str] | None = None
    largest: tuple[int, str] | None = None

    def add(self, width: int, height: int, where: str) -> None:
        """Includes an image; of several with the same side, the first one is kept."""
        side = min(width, height)
        if self.smallest is None or side < self.smallest[0]:
            self.smallest = (side, f"{width} x {height} pixels, {where}")
        if self.largest is None or side > self.largest[0]:
            self.largest = (side, f"{width} x {height} pixels, {where}")

    def merge(self, later: "Extremes") -> None:
        """Includes the extremes of images that were read later."""
        if later.smallest and (self.smallest is None or later.smallest[0] < self.smallest[0]):
            self.smallest = later.smallest
        if later.largest and (self.largest is None or later.largest[0] > self.largest[0]):
            self.largest = later.largest


@dataclass
class ShardReading:
    """A shard as read, whose size does not depend on the number of its images; filled in while reading.

    Attributes:
        problem: Why the file cannot be read; empty if it can.
        records: The number of records before the damage, if any.
        bytes: The size of the file.
        sha256: Of the file, in hexadecimal.
        damage: The record whose header is damaged, so that the records after it could not be read.
        complete: Whether every record was read and none was damaged.
        images: The number of records, without those whose labels are all out of range.
        images_per_label: By class, without labels that are out of range.
        first_of_label: The name of the first record of each class.
        findings: About single records.
        shown: By the number of a kept finding: the record's offset and the caption of its thumbnail.
        samples: By class: offset and name of a few records, for thumbnails.
        widths, heights, shorter_sides: By pixels: the number of images that can be decoded.
        formats: By file format: the number of images that can be decoded.
        extremes: Of the images that can be decoded.
        other_names: By label: the number of records with another name in image/class/synset, the first name,
            and its record.
    """

    problem: str = ""
    records: int = 0
    bytes: int = 0
    sha256: str = ""
    damage: Finding | None = None
    complete: bool = True
    images: int = 0
    images_per_label: Counter[int] = field(default_factory=Counter)
    first_of_label: dict[int, str] = field(default_factory=dict)
    findings: FindingList = field(default_factory=FindingList)
    shown: dict[int, tuple[int, str]] = field(default_factory=dict)
    samples: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    extremes: Extremes = field(default_factory=Extremes)
    other_names: dict[int, tuple[int, str, str]] = field(default_factory=dict)


def read_shard(
    path: Path,
    name: str,
    labels: tuple[str, ...],
    checker: RecordChecker,
    images: ImageTable,
    *,
    keep_samples: bool,
    threads: int,
    on_images: Callable[[int], None] = lambda _: None,
) -> ShardReading:
    """Reads a shard and checks each record by itself.

    A few threads decode the images (libjpeg-turbo releases the interpreter's lock), two megabytes at a time.
    A record with a damaged header ends the reading, because the start of the next record is unknown.

    Args:
        path: The file, or a local copy of it.
        name: Its name in the manifest.
        labels: The names of the labels.
        checker: Checks the records.
        images: Gets the images; the shard was begun in it.
        keep_samples: Whether samples of the images are kept.
        threads: The number of threads.
        on_images: Called after every few records, with their number.

    Raises:
        MissingInputError: if the file cannot be read.
    """
    reader = _ShardReader(path, name, labels, images, keep_samples=keep_samples)
    return reader.read(checker, threads, on_images)


def unreadable_shard(error: MissingInputError) -> ShardReading:
    """Returns the reading of a shard that is missing or cannot be read."""
    return ShardReading(problem=error.problem, complete=False)


def samples_per_label(labels: int) -> int:
    """Returns the number of samples of each label, given the number of labels."""
    return max(1, min(_SAMPLES_PER_LABEL, _MAX_SAMPLES // labels))


class _ShardReader:
    def __init__(
        self, path: Path, name: str, labels: tuple[str, ...], images: ImageTable, *, keep_samples: bool
    ) -> None:
        self._path = path
        self._name = name
        self._labels = labels
        self._images = images
        self._keep_samples = keep_samples
        self._reading = ShardReading()
        self._sha256 = hashlib.sha256()

    def read(self, checker: RecordChecker, threads: int, on_images: Callable[[int], None]) -> ShardReading:
        checked_blocks = map_in_order(
            lambda block: checker.check_block(block, self._name),
            self._blocks(),
            threads,
            size_of=lambda block: len(block.content),
            max_pending_bytes=_MAX_PENDING_BYTES,
        )
        with closing(checked_blocks):
            for block in checked_blocks:
                for place, checked in block:
                    self._add(place, checked)
                on_images(len(block))
        reading = self._reading
        reading.bytes = self._path.stat().st_size
        # The hash of a damaged shard lacks the part that was not read.
        reading.sha256 = file_sha256(self._path) if reading.damage else self._sha256.hexdigest()
        return reading

    def _blocks(self) -> Iterator[RecordBlock]:
        try:
            for block in read_record_blocks(self._path, self._name):
                # Hashed here, so that the file is read only once.
                self._sha256.update(block.framed)
                self._reading.records += len(block.locations)
                yield block
        except InvalidDataError as error:
            problem = f"{error.problem}; the records after it were not read"
            self._reading.damage = Finding(ERROR, "damaged_record", problem, error.where, error.remedy)
            self._reading.complete = False

    def _add(self, place: RecordLocation, checked: CheckedRecord) -> None:
        """Adds a checked record to the reading; called in record order."""
        reading, labels = self._reading, checked.labels
        if not checked.digest:
            reading.complete = False
            if checked.finding is not None:
                reading.findings.add(checked.finding)
            return
        if checked.finding is not None:
            self._add_finding(checked.finding, labels, place)
        self._images.add(checked.digest, labels, place.number, place.offset)
        where = record_name(self._name, place.number, checked.filename)
        if checked.width:
            reading.widths[checked.width] += 1
            reading.heights[checked.height] += 1
            reading.shorter_sides[min(checked.width, checked.height)] += 1
            reading.formats[checked.format] += 1
            reading.extremes.add(checked.width, checked.height, where)
        in_range = [label for label in labels if 1 <= label <= len(self._labels)]
        reading.images += bool(in_range) or not labels
        for label, text in zip(labels, checked.texts, strict=True):
            if label not in in_range:
                self._add_finding(_label_out_of_range(label, text, self._labels, where), labels, place)
                continue
            class_index = label_to_class(label)
            reading.first_of_label.setdefault(class_index, where)
            reading.images_per_label[class_index] += 1
            if text and text != self._labels[class_index]:
                count, first_text, first = reading.other_names.get(label, (0, text, where))
                reading.other_names[label] = (count + 1, first_text, first)
            if self._keep_samples and checked.width and class_index < _MAX_SAMPLES:
                samples = reading.samples.setdefault(class_index, [])
                if len(samples) < samples_per_label(len(self._labels)):
                    samples.append((place.offset, where))

    def _add_finding(self, finding: Finding, labels: tuple[int, ...], place: RecordLocation) -> None:
        """Adds a finding, and the record for its thumbnail unless enough findings of its kind have one."""
        findings = self._reading.findings
        if findings.counts[finding.kind] < MAX_WITH_THUMBNAIL:
            self._reading.shown[len(findings.kept)] = (place.offset, label_names(labels, self._labels))
        findings.add(finding)


def label_names(labels: tuple[int, ...], known: tuple[str, ...]) -> str:
    """Returns the names of an image's labels; a label that is out of range has its number instead."""
    names = (
        known[label_to_class(label)] if 1 <= label <= len(known) else f"label {label}" for label in labels
    )
    return ", ".join(names) if labels else "no label"


def _label_out_of_range(label: int, text: str, labels: tuple[str, ...], where: str) -> Finding:
    ends = f" ({labels[0]!r} to {labels[-1]!r})" if labels else ""
    name = f"; its name in the record is {text!r}" if text else ""
    return Finding(
        ERROR,
        "label_out_of_range",
        f"label {label} is not in 1..{len(labels)}{ends}{name}",
        where,
        "labels in a record start at 1: add 1 to every label"
        if label == 0
        else "correct the label, or use a labels file that names it",
    )


def serialize_shard_reading(reading: ShardReading) -> bytes:
    """Returns a shard's reading as JSON, for another process."""
    return json.dumps(vars(reading), default=vars).encode("ascii")


def parse_shard_reading(content: bytes) -> ShardReading:
    """Returns the reading that ``serialize_shard_reading`` wrote."""
    fields: dict[str, Any] = json.loads(content)
    for name in ("images_per_label", "widths", "heights", "shorter_sides"):
        fields[name] = Counter(_with_numbers(fields[name]))
    for name in ("first_of_label", "samples"):
        fields[name] = _with_numbers(fields[name])
    for name in ("shown", "other_names"):
        fields[name] = {number: tuple(value) for number, value in _with_numbers(fields[name]).items()}
    fields["formats"] = Counter(fields["formats"])
    fields["extremes"] = Extremes(**fields["extremes"])
    fields["damage"] = _parse_finding(fields["damage"]) if fields["damage"] else None
    found = fields["findings"]
    fields["findings"] = FindingList(list(map(_parse_finding, found["kept"])), Counter(found["counts"]))
    return ShardReading(**fields)


def _with_numbers(values: dict[str, Any]) -> dict[int, Any]:
    return {int(number): value for number, value in values.items()}


def _parse_finding(fields: dict[str, Any]) -> Finding:
    return Finding(**{**fields, "thumbnails": ()})
