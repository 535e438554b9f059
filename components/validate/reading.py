"""The data set as read: what its shards contain, taken together."""

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from imgpipe.components.common.dataset import CONVERT_AGAIN, TRAIN, Manifest, Shard, shard_location
from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.html_page import Thumbnail, thumbnail_source
from imgpipe.components.common.log import Progress
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import ImageRecord, decode_example
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.storage import LocalLocation, Location
from imgpipe.components.validate.equal_images import EqualImages, ImageTable, find_equal_images
from imgpipe.components.validate.findings import ERROR, Bucket, Finding, FindingList, ImageSizes, Range
from imgpipe.components.validate.record_checks import RecordChecker
from imgpipe.components.validate.shard_reading import (
    MAX_WITH_THUMBNAIL,
    Extremes,
    ShardReading,
    read_shard,
    samples_per_label,
    unreadable_shard,
)

_MAX_THREADS = 8
_RECORD_LENGTH = struct.Struct("<Q")
_RECORD_HEADER_BYTES = 12
_BUCKET_STARTS = (0, 32, 64, 128, 224, 320, 512, 1024, 2048)


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

    def add(self, read: ShardReading) -> None:
        """Adds the next shard."""
        self.images += read.images
        self.complete &= read.complete
        for class_index, count in read.images_per_label.items():
            self.images_per_label[class_index] += count
        for class_index, where in read.first_of_label.items():
            self.first_of_label.setdefault(class_index, where)


@dataclass
class Reading:
    """The data set as read; shards are added in the order of the manifest."""

    labels: tuple[str, ...]
    splits: dict[str, SplitReading]
    multi_label: bool = False
    findings: FindingList = field(default_factory=FindingList)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    extremes: Extremes = field(default_factory=Extremes)
    samples: list[list[Thumbnail]] = field(default_factory=list)
    # By label: the number of records with another name in image/class/synset, the first name, and its record.
    other_names: dict[int, tuple[int, str, str]] = field(default_factory=dict)
    equal_images: EqualImages = field(default_factory=EqualImages)

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

    def add(self, split: str, shard: Shard, location: Location, read: ShardReading) -> None:
        """Adds the next shard; the few images that the report shows are read again.

        Args:
            split: The name of its split.
            shard: The shard as declared in the manifest.
            location: The file.
            read: The shard as read.
        """
        self.splits[split].add(read)
        self._add_findings(location, read)
        self.findings.extend(_shard_findings(shard, read))
        self.widths.update(read.widths)
        self.heights.update(read.heights)
        self.shorter_sides.update(read.shorter_sides)
        self.formats.update(read.formats)
        self.extremes.merge(read.extremes)
        for label, (count, text, where) in read.other_names.items():
            earlier, first_text, first = self.other_names.get(label, (0, text, where))
            self.other_names[label] = (earlier + count, first_text, first)
        for class_index, samples in read.samples.items():
            shown = self.samples[class_index]
            for offset, where in samples[: samples_per_label(len(self.labels)) - len(shown)]:
                shown.append(Thumbnail(self._thumbnail_source(location, offset), title=where))

    def _add_findings(self, location: Location, read: ShardReading) -> None:
        for number, finding in enumerate(read.findings.kept):
            if number in read.shown and self.findings.counts[finding.kind] < MAX_WITH_THUMBNAIL:
                offset, caption = read.shown[number]
                if source := self._thumbnail_source(location, offset):
                    finding = replace(finding, thumbnails=(Thumbnail(source, (caption,), finding.where),))
            self.findings.add(finding)
        kept = Counter(finding.kind for finding in read.findings.kept)
        for kind, count in read.findings.counts.items():
            self.findings.count_more(kind, count - kept[kind])

    def _thumbnail_source(self, location: Location, offset: int) -> str:
        record = record_at(location, offset, where=str(location), multi_label=self.multi_label)
        return thumbnail_source(record.encoded)


# Reads the data set of a manifest, given the manifest's folder and the largest number of pixels of an image
# that is decoded.
DatasetReader = Callable[[Manifest, Path, int], Reading]


def empty_reading(manifest: Manifest) -> Reading:
    """Returns a reading of a data set, without its shards."""
    return Reading(
        labels=manifest.labels,
        splits={name: SplitReading([0] * manifest.num_classes) for name in manifest.splits},
        multi_label=manifest.multi_label,
        samples=[[] for _ in manifest.labels],
    )


def read_dataset(manifest: Manifest, folder: Path, max_image_pixels: int) -> Reading:
    """Reads every shard of every split and checks each record by itself.

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
    reading, images = empty_reading(manifest), ImageTable()
    progress = Progress("validate", sum(split.examples for split in manifest.splits.values()), "examples")
    shards = manifest.all_shards()
    for number, (split, shard) in enumerate(shards):
        images.begin_shard(number, in_train=split == TRAIN)
        location = shard_location(folder, shard)
        try:
            with location.local_copy() as path:
                read = read_shard(
                    path,
                    shard.path,
                    manifest.labels,
                    checker,
                    images,
                    keep_samples=split == TRAIN,
                    threads=usable_threads(_MAX_THREADS),
                    on_images=progress.add,
                )
                reading.add(split, shard, LocalLocation(str(path)), read)
        except MissingInputError as error:
            reading.add(split, shard, location, unreadable_shard(error))
    reading.equal_images = find_equal_images(images)
    return reading


def record_at(location: Location, offset: int, *, where: str, multi_label: bool = False) -> ImageRecord:
    """Reads a record again that was valid in the first reading."""
    length = _RECORD_LENGTH.unpack(location.read_range(offset, _RECORD_LENGTH.size))[0]
    data = location.read_range(offset + _RECORD_HEADER_BYTES, length)
    return decode_example(data, where=where, multi_label=multi_label)


def _shard_findings(shard: Shard, read: ShardReading) -> Iterator[Finding]:
    if read.problem:
        remedy = f"put the file back, or convert again; {CONVERT_AGAIN}"
        yield Finding(ERROR, "missing_shard", read.problem, shard.path, remedy)
        return
    if read.damage is not None:
        yield read.damage
    elif read.records != shard.examples:
        yield Finding(
            ERROR,
            "shard_count",
            f"the manifest lists {plural(shard.examples, 'record')}, the file has {read.records:,}",
            shard.path,
            "convert again, or correct the manifest",
        )
    if read.sha256 != shard.sha256:
        differs = read.bytes != shard.bytes
        sizes = f"{read.bytes:,} bytes, not {shard.bytes:,}" if differs else "the size matches"
        yield Finding(
            ERROR,
            "changed_shard",
            f"the file is not the one in the manifest: its SHA-256 is {read.sha256[:16]}..., "
            f"not {shard.sha256[:16]}... ({sizes})",
            shard.path,
            "restore the file, or convert again",
        )


def _range(counts: Counter[int]) -> Range | None:
    if not counts:
        return None
    values = sorted(counts)
    cumulative = list(accumulate(counts[value] for value in values))
    median = values[bisect_right(cumulative, (counts.total() - 1) // 2)]
    return Range(values[0], median, values[-1])
