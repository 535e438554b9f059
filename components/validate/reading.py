"""Reads every record of every shard once, and keeps a small part of it."""

import hashlib
import struct
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from imgpipe.components.common.dataset import (
    CONVERT_AGAIN,
    TRAIN,
    Manifest,
    Shard,
    file_sha256,
    shard_location,
)
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.html_page import Thumbnail, thumbnail_source
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import ImageRecord, decode_example, label_to_class
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.tfrecord import RecordBlock, RecordLocation, read_record_blocks
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS
from imgpipe.components.storage import Location, parse_location
from imgpipe.components.validate.findings import ERROR, Bucket, Finding, FindingList, ImageSizes, Range
from imgpipe.components.validate.record_checks import CheckedRecord, RecordChecker, record_name

SAMPLES_PER_LABEL = 6
# Keeps the page at a few megabytes.
_MAX_SAMPLES = 300
_MAX_THREADS = 8
# With records of tens of megabytes, each thread has only one block.
_MAX_PENDING_BYTES = 32_000_000
DIGEST_BYTES = 32
_RECORD_LENGTH = struct.Struct("<Q")
_RECORD_HEADER_BYTES = 12
# Only the first findings of a kind have thumbnails.
_MAX_WITH_THUMBNAIL = 20
_BUCKET_STARTS = (0, 32, 64, 128, 224, 320, 512, 1024, 2048)


@dataclass
class ImageTable:
    """60 bytes of each image: enough to find equal ones and to read them again.

    Images are numbered from 0 in reading order; ``shards`` has the number of each shard's first image, the
    split and the shard.
    """

    digests: bytearray = field(default_factory=bytearray)
    # In a multi-label data set, the number of the label set.
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    record_numbers: "array[int]" = field(default_factory=lambda: array("L"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    shards: list[tuple[int, str, Shard]] = field(default_factory=list)

    def begin_shard(self, split: str, shard: Shard) -> None:
        """Starts the shard to which ``add`` adds images."""
        self.shards.append((len(self.labels), split, shard))

    def add(self, digest: bytes, label: int, record_number: int, offset: int) -> None:
        """Adds an image of the current shard."""
        self.digests += digest
        self.labels.append(label)
        self.record_numbers.append(record_number)
        self.offsets.append(offset)

    def shard_of(self, number: int) -> tuple[str, Shard]:
        """Returns the split and the shard of an image."""
        # A shard without images has the same first number as the next one: the last of these has the image.
        _, split, shard = self.shards[bisect_right(self.shards, number, key=lambda entry: entry[0]) - 1]
        return split, shard


@dataclass
class SplitReading:
    """The counts of a split.

    Attributes:
        images_per_label: In label order, without labels that are out of range.
        images: The number of records, without those whose labels are all out of range.
        first_of_label: The name of the first record of each class that has one.
        complete: Whether every record was read and none was damaged.
    """

    images_per_label: list[int]
    images: int = 0
    first_of_label: dict[int, str] = field(default_factory=dict)
    complete: bool = True


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


@dataclass
class Reading:
    """The data set as read; filled in while reading."""

    labels: tuple[str, ...]
    splits: dict[str, SplitReading]
    multi_label: bool = False
    # In a multi-label data set: a number for each set of labels that an image has.
    label_sets: dict[tuple[int, ...], int] = field(default_factory=dict)
    images: ImageTable = field(default_factory=ImageTable)
    findings: FindingList = field(default_factory=FindingList)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    extremes: Extremes = field(default_factory=Extremes)
    samples: list[list[Thumbnail]] = field(default_factory=list)
    # By label: the number of records with another name in image/class/synset, the first name, and its record.
    other_names: dict[int, tuple[int, str, str]] = field(default_factory=dict)

    @property
    def image_sizes(self) -> ImageSizes:
        """The distribution of the sizes of the images that can be decoded."""
        images: Counter[int] = Counter()
        for side, count in self.shorter_sides.items():
            images[bisect_right(_BUCKET_STARTS, side) - 1] += count
        ends = (*(start - 1 for start in _BUCKET_STARTS[1:]), None)
        return ImageSizes(
            width=_range(self.widths),
            height=_range(self.heights),
            shorter_side=tuple(
                Bucket(start, end, images[number])
                for number, (start, end) in enumerate(zip(_BUCKET_STARTS, ends, strict=True))
            ),
        )


def read_dataset(
    manifest: Manifest, folder: Path, max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
) -> Reading:
    """Reads every shard of every split and checks each record by itself.

    A few threads decode the images (libjpeg-turbo releases the interpreter's lock), two megabytes at a time.
    A record with a damaged header ends the reading of its shard, because the start of the next record is
    unknown; the other shards are read all the same.

    Args:
        manifest: The data set's manifest.
        folder: The folder of the manifest.
        max_image_pixels: An image with more pixels is not decoded.

    Raises:
        InterruptedRunError: if a shard is in a remote store, which cannot be reached.
    """
    checker = RecordChecker(max_image_pixels, multi_label=manifest.multi_label)
    reading = Reading(
        labels=manifest.labels,
        splits={name: SplitReading([0] * manifest.num_classes) for name in manifest.splits},
        multi_label=manifest.multi_label,
        samples=[[] for _ in manifest.labels],
    )
    progress = Progress("validate", sum(split.examples for split in manifest.splits.values()), "examples")
    done = 0
    for split_name, split in manifest.splits.items():
        for shard in split.shards:
            reading.images.begin_shard(split_name, shard)
            try:
                with shard_location(folder, shard).local_copy() as path:
                    for _ in _ShardReader(reading, split_name, shard, path).read(checker):
                        done += 1
                        progress.update(done)
            except MissingInputError as error:
                reading.splits[split_name].complete = False
                remedy = f"put the file back, or convert again; {CONVERT_AGAIN}"
                reading.findings.add(Finding(ERROR, "missing_shard", error.problem, shard.path, remedy))
    return reading


def record_at(location: Location, offset: int, *, where: str, multi_label: bool = False) -> ImageRecord:
    """Reads a record again that was valid in the first reading."""
    length = _RECORD_LENGTH.unpack(location.read_range(offset, _RECORD_LENGTH.size))[0]
    data = location.read_range(offset + _RECORD_HEADER_BYTES, length)
    return decode_example(data, where=where, multi_label=multi_label)


def label_names(labels: tuple[int, ...], known: tuple[str, ...]) -> str:
    """Returns the names of an image's labels; a label that is out of range has its number instead."""
    names = (
        known[label_to_class(label)] if 1 <= label <= len(known) else f"label {label}" for label in labels
    )
    return ", ".join(names) if labels else "no label"


class _ShardReader:
    """Reads one shard into ``reading``."""

    def __init__(self, reading: Reading, split_name: str, shard: Shard, path: Path) -> None:
        self._reading = reading
        self._split = reading.splits[split_name]
        self._is_train = split_name == TRAIN
        self._shard = shard
        self._path = path
        self._records = 0
        self._sha256 = hashlib.sha256()
        self._damage: InvalidDataError | None = None

    def read(self, checker: RecordChecker) -> Iterator[None]:
        """Yields once for each record."""
        checked_blocks = map_in_order(
            lambda block: checker.check_block(block, self._shard),
            self._blocks(),
            usable_threads(_MAX_THREADS),
            size_of=lambda block: len(block.content),
            max_pending_bytes=_MAX_PENDING_BYTES,
        )
        with closing(checked_blocks):
            for block in checked_blocks:
                for place, checked in block:
                    self._add(place, checked)
                    yield
        self._reading.findings.extend(self._shard_findings())

    def _blocks(self) -> Iterator[RecordBlock]:
        try:
            for block in read_record_blocks(self._path, self._shard.path):
                # Hashed here, so that the file is read only once.
                self._sha256.update(block.framed)
                self._records += len(block.locations)
                yield block
        except InvalidDataError as error:
            self._damage = error
            self._split.complete = False

    def _shard_findings(self) -> Iterator[Finding]:
        shard = self._shard
        if self._damage is not None:
            problem = f"{self._damage.problem}; the records after it were not read"
            yield Finding(ERROR, "damaged_record", problem, self._damage.where, self._damage.remedy)
        elif self._records != shard.examples:
            yield Finding(
                ERROR,
                "shard_count",
                f"the manifest lists {plural(shard.examples, 'record')}, the file has {self._records:,}",
                shard.path,
                "convert again, or correct the manifest",
            )
        # The hash of a damaged shard lacks the part that was not read.
        digest = self._sha256.hexdigest() if self._damage is None else file_sha256(self._path)
        if digest != shard.sha256:
            size = self._path.stat().st_size
            sizes = f"{size:,} bytes, not {shard.bytes:,}" if size != shard.bytes else "the size matches"
            yield Finding(
                ERROR,
                "changed_shard",
                f"the file is not the one in the manifest: its SHA-256 is {digest[:16]}..., "
                f"not {shard.sha256[:16]}... ({sizes})",
                shard.path,
                "restore the file, or convert again",
            )

    def _add(self, place: RecordLocation, checked: CheckedRecord) -> None:
        """Adds a checked record to the reading; called in record order."""
        reading, labels = self._reading, checked.labels
        if not checked.digest:
            self._split.complete = False
            if checked.finding is not None:
                reading.findings.add(checked.finding)
            return
        if checked.finding is not None:
            reading.findings.add(self._with_thumbnail(checked.finding, labels, place))
        label = (
            reading.label_sets.setdefault(labels, len(reading.label_sets))
            if reading.multi_label
            else labels[0]
        )
        reading.images.add(checked.digest, label, place.number, place.offset)
        where = record_name(self._shard, place.number, checked.filename)
        if checked.width:
            reading.widths[checked.width] += 1
            reading.heights[checked.height] += 1
            reading.shorter_sides[min(checked.width, checked.height)] += 1
            reading.formats[checked.format] += 1
            reading.extremes.add(checked.width, checked.height, where)
        in_range = [label for label in labels if 1 <= label <= len(reading.labels)]
        self._split.images += bool(in_range) or not labels
        for label, text in zip(labels, checked.texts, strict=True):
            if label not in in_range:
                finding = _label_out_of_range(label, text, reading.labels, where)
                reading.findings.add(self._with_thumbnail(finding, labels, place))
                continue
            class_index = label_to_class(label)
            self._split.first_of_label.setdefault(class_index, where)
            self._split.images_per_label[class_index] += 1
            if text and text != reading.labels[class_index]:
                count, first_text, first = reading.other_names.get(label, (0, text, where))
                reading.other_names[label] = (count + 1, first_text, first)
            if self._is_train and checked.width:
                self._add_sample(class_index, place, where)

    def _add_sample(self, class_index: int, place: RecordLocation, where: str) -> None:
        samples = self._reading.samples[class_index]
        limit = max(1, min(SAMPLES_PER_LABEL, _MAX_SAMPLES // len(self._reading.labels)))
        if len(samples) < limit and class_index < _MAX_SAMPLES:
            samples.append(Thumbnail(self._thumbnail_source(place), title=where))

    def _with_thumbnail(self, finding: Finding, labels: tuple[int, ...], place: RecordLocation) -> Finding:
        """Returns the finding with a thumbnail of its image, unless enough findings of its kind have one."""
        if self._reading.findings.counts[finding.kind] >= _MAX_WITH_THUMBNAIL:
            return finding
        source = self._thumbnail_source(place)
        if not source:
            return finding
        caption = label_names(labels, self._reading.labels)
        return replace(finding, thumbnails=(Thumbnail(source, (caption,), finding.where),))

    def _thumbnail_source(self, place: RecordLocation) -> str:
        # Read again: only few records are shown.
        location = parse_location(self._path)
        record = record_at(location, place.offset, where=str(location), multi_label=self._reading.multi_label)
        return thumbnail_source(record.encoded)


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


def _range(counts: Counter[int]) -> Range | None:
    if not counts:
        return None
    values = sorted(counts)
    cumulative = list(accumulate(counts[value] for value in values))
    median = values[bisect_right(cumulative, (counts.total() - 1) // 2)]
    return Range(values[0], median, values[-1])
