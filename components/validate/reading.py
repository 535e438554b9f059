"""Reads every record of every shard once, and keeps little of it."""

import hashlib
import struct
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from imgpipe.components.common.dataset import TRAIN, Manifest, Shard, file_sha256, shard_location
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.html_page import Thumbnail, thumbnail_source
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import in_order
from imgpipe.components.common.records import ImageRecord, decode_example, label_to_class
from imgpipe.components.common.tfrecord import RecordBlock, RecordPlace, record_blocks
from imgpipe.components.common.threads import usable_threads
from imgpipe.components.images.image_files import ImageError, PreparedImage, image_format_of, prepare_image
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS
from imgpipe.components.storage.files import local_copy, read_part
from imgpipe.components.validate.findings import (
    ERROR,
    WARNING,
    Bucket,
    Finding,
    FindingList,
    ImageSizes,
    Range,
)

SAMPLES_PER_LABEL = 6
# A page of more small pictures than this is megabytes that nobody scrolls through.
_MOST_SAMPLES = 300
_MOST_THREADS = 8
# Records of tens of megabytes are one a thread.
_MOST_BYTES_WAITING = 32_000_000
DIGEST_BYTES = 32
_RECORD_LENGTH = struct.Struct("<Q")
_RECORD_HEADER_BYTES = 12
_BMP_DEPTH_OFFSET = 28
_BMP_DEPTH_AND_COMPRESSION = struct.Struct("<HI")
_BMP_RUN_LENGTHS = (1, 2)
_PUT_BACK = "put the file back, or convert again"
# Of so many different images it is remembered that they are sound.
_MOST_REMEMBERED = 20_000
# Findings of a kind that show the picture they are about.
_WITH_PICTURE = 20
_BUCKET_STARTS = (0, 32, 64, 128, 224, 320, 512, 1024, 2048)


@dataclass
class ImageTable:
    """What is kept of every image, 60 bytes each: enough to find equal ones and to read them again.

    Images are numbered from 0 in the order of reading; ``shards`` says which numbers are whose.
    """

    digests: bytearray = field(default_factory=bytearray)
    # In a multi-label data set, the number of the label set.
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    record_numbers: "array[int]" = field(default_factory=lambda: array("L"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    shards: list[tuple[int, str, Shard]] = field(default_factory=list)

    def begin_shard(self, split: str, shard: Shard) -> None:
        """The images that are added from now on lie in this shard."""
        self.shards.append((len(self.labels), split, shard))

    def add(self, digest: bytes, label: int, record_number: int, offset: int) -> None:
        """Adds an image of the current shard."""
        self.digests += digest
        self.labels.append(label)
        self.record_numbers.append(record_number)
        self.offsets.append(offset)


@dataclass
class SplitReading:
    """What was read of a split.

    Attributes:
        images_per_label: In the order of the labels; records with a label out of range are not in it.
        images: How many records there are, but for those whose labels are all out of range.
        first_of_label: The name of the first record of each class that has one.
        complete: Whether every record of it was read, none damaged.
    """

    images_per_label: list[int]
    images: int = 0
    first_of_label: dict[int, str] = field(default_factory=dict)
    complete: bool = True

    def add(self, class_index: int, where: str) -> None:
        """Counts an image."""
        if not self.images_per_label[class_index]:
            self.first_of_label[class_index] = where
        self.images_per_label[class_index] += 1


@dataclass
class Extremes:
    """The images with the shortest and the longest shorter side: pixels, and size and place in words."""

    smallest: tuple[int, str] | None = None
    largest: tuple[int, str] | None = None

    def add(self, width: int, height: int, where: str) -> None:
        """Takes an image into account; the first one of its size counts."""
        side = min(width, height)
        if self.smallest is None or side < self.smallest[0]:
            self.smallest = (side, f"{width} x {height} pixels, {where}")
        if self.largest is None or side > self.largest[0]:
            self.largest = (side, f"{width} x {height} pixels, {where}")


@dataclass
class Reading:
    """What was read of a data set; filled in while it is read."""

    labels: tuple[str, ...]
    splits: dict[str, SplitReading]
    multi_label: bool = False
    # Of a multi-label data set: every set of labels that an image has, with a number of its own.
    label_sets: dict[tuple[int, ...], int] = field(default_factory=dict)
    images: ImageTable = field(default_factory=ImageTable)
    findings: FindingList = field(default_factory=FindingList)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    extremes: Extremes = field(default_factory=Extremes)
    samples: list[list[Thumbnail]] = field(default_factory=list)
    # By label: how many records name another label in image/class/synset, the first name, and where.
    other_names: dict[int, tuple[int, str, str]] = field(default_factory=dict)

    @property
    def image_sizes(self) -> ImageSizes:
        """The distribution of the sizes of the images that decode."""
        ends = (*(start - 1 for start in _BUCKET_STARTS[1:]), None)
        return ImageSizes(
            width=_range(self.widths),
            height=_range(self.heights),
            shorter_side=tuple(
                Bucket(
                    start,
                    end,
                    sum(
                        images
                        for side, images in self.shorter_sides.items()
                        if side >= start and (end is None or side <= end)
                    ),
                )
                for start, end in zip(_BUCKET_STARTS, ends, strict=True)
            ),
        )


def read_dataset(
    manifest: Manifest, folder: Path, max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
) -> Reading:
    """Reads every shard of every split and checks what can be checked of a record by itself.

    Records are decoded by a few threads (libjpeg-turbo lets go of the interpreter's lock), two megabytes
    at a time. A record whose header is damaged ends the reading of its shard, because nothing says
    where the next one begins; the other shards are read all the same.

    Args:
        manifest: What should be there.
        folder: Where the manifest lies.
        max_image_pixels: An image of more pixels is not decoded.

    Raises:
        InterruptedRunError: if a shard lies in Cloud Storage, which cannot be reached.
    """
    checked = _Checked(max_image_pixels, multi_label=manifest.multi_label)
    threads = usable_threads(_MOST_THREADS)
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
            for _ in _read_shard(reading, split_name, shard, folder, checked, threads):
                done += 1
                progress.update(done)
    return reading


def record_at(location: str, offset: int, *, where: str, multi_label: bool = False) -> ImageRecord:
    """Reads one record again, whose offset and soundness are known from the first reading."""
    length = _RECORD_LENGTH.unpack(read_part(location, offset, _RECORD_LENGTH.size))[0]
    data = read_part(location, offset + _RECORD_HEADER_BYTES, length)
    return decode_example(data, where=where, multi_label=multi_label)


def record_name(shard: Shard, record_number: int, filename: str = "") -> str:
    """Returns the words by which a record is named everywhere in the step."""
    return f"{shard.path}, record {record_number}" + (f" ({filename})" if filename else "")


@dataclass(frozen=True, slots=True)
class _Examined:
    """What is kept of a record that a thread has looked at; ``digest`` is empty if it is no image of ours."""

    digest: bytes = b""
    labels: tuple[int, ...] = ()
    # A name for each label, empty where the record has none.
    texts: tuple[str, ...] = ()
    filename: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    finding: Finding | None = None


class _Checked:
    """Images that were found sound: equal bytes are decoded once. Bounded, at some 200 bytes each."""

    def __init__(self, max_image_pixels: int, *, multi_label: bool) -> None:
        self._max_image_pixels = max_image_pixels
        self.multi_label = multi_label
        self._images: dict[bytes, PreparedImage] = {}

    def prepared(self, encoded: bytes, digest: bytes) -> PreparedImage:
        """Returns what ``prepare_image`` does, without the bytes where it does so from memory.

        Raises:
            ImageError: as ``prepare_image`` does.
        """
        known = self._images.get(digest)
        if known is not None:
            return known
        image = prepare_image(encoded, self._max_image_pixels)
        if not image.reencoded and len(self._images) < _MOST_REMEMBERED:
            self._images[digest] = replace(image, encoded=b"")
        return image


class _Digest:
    """SHA-256 of images in turn: convert writes equal ones side by side, and comparing is faster."""

    def __init__(self) -> None:
        self._encoded = self._digest = b""

    def of(self, encoded: bytes) -> bytes:
        """Returns the 32 bytes of the digest."""
        if not self._digest or encoded != self._encoded:
            self._encoded, self._digest = encoded, hashlib.sha256(encoded).digest()
        return self._digest


def _examine(
    block: RecordBlock, place: RecordPlace, shard: Shard, checked: _Checked, digest_of: _Digest
) -> _Examined:
    where = record_name(shard, place.number)
    try:
        data = block.data(place)
    except InvalidDataError as error:
        return _Examined(finding=Finding(ERROR, "damaged_record", error.problem, error.where, error.remedy))
    try:
        record = decode_example(data, where=where, multi_label=checked.multi_label)
    except InvalidDataError as error:
        return _Examined(finding=Finding(ERROR, "invalid_record", error.problem, where, error.remedy))
    digest = digest_of.of(record.encoded)
    labels = record.all_labels
    texts = (record.text,) if record.labels is None else record.texts
    texts = texts if len(texts) == len(labels) else ("",) * len(labels)
    known = (digest, labels, texts, record.filename)
    where = record_name(shard, place.number, record.filename)
    try:
        image = checked.prepared(record.encoded, digest)
    except ImageError as error:
        return _Examined(*known, finding=_refused(str(error), where))
    image_format = image_format_of(record.encoded)
    finding = _reencoded(record.encoded, image_format, image.reencoded, where) if image.reencoded else None
    return _Examined(*known, image_format, image.width, image.height, finding)


def _refused(reason: str, where: str) -> Finding:
    remedy = "replace the image or leave its row out, and convert again"
    if reason.startswith("damaged but decodable"):
        return Finding(
            WARNING, "damaged_image", f"{reason}: training sees it, in part garbled", where, remedy
        )
    return Finding(ERROR, "undecodable_image", f"the image cannot be decoded: {reason}", where, remedy)


def _reencoded(encoded: bytes, image_format: str, reason: str, where: str) -> Finding:
    """Returns the finding for an image as only foreign records have it: convert would have changed it."""
    remedy = "convert the image files with the convert step, or save the image as a plain JPEG or PNG file"
    if _training_refuses(encoded, image_format, reason):
        return Finding(
            ERROR, "unsupported_image", f"training cannot decode this image: {reason}", where, remedy
        )
    return Finding(
        WARNING,
        "unusual_image",
        f"training may see this image otherwise than a viewer shows it: {reason}",
        where,
        remedy,
    )


def _training_refuses(encoded: bytes, image_format: str, reason: str) -> bool:
    """Returns whether TensorFlow's decoder fails, as it does for some WebP and BMP files that are sound."""
    if image_format == "WebP":
        return "transparency" in reason or "animation" in reason
    if image_format == "BMP":
        bits_per_pixel, compression = _BMP_DEPTH_AND_COMPRESSION.unpack_from(encoded, _BMP_DEPTH_OFFSET)
        return bits_per_pixel < 8 or compression in _BMP_RUN_LENGTHS
    return False


def _read_shard(
    reading: Reading, split: str, shard: Shard, folder: Path, checked: _Checked, threads: int
) -> Iterator[None]:
    """Reads one shard into ``reading``; yields once for each record."""
    reading.images.begin_shard(split, shard)
    try:
        with local_copy(shard_location(folder, shard)) as path:
            yield from _read_file(reading, split, shard, path, checked, threads)
    except MissingInputError as error:
        reading.splits[split].complete = False
        reading.findings.add(Finding(ERROR, "missing_shard", error.problem, shard.path, _PUT_BACK))


def _read_file(
    reading: Reading, split: str, shard: Shard, path: Path, checked: _Checked, threads: int
) -> Iterator[None]:
    records = 0
    damage: InvalidDataError | None = None

    def examined(block: RecordBlock) -> list[tuple[RecordPlace, _Examined]]:
        digest = _Digest()
        return [(place, _examine(block, place, shard, checked, digest)) for place in block.places]

    def blocks() -> Iterator[RecordBlock]:
        nonlocal records, damage
        try:
            for block in record_blocks(path, shard.path):
                # On the way, so that the file is not read again.
                sha256.update(block.framed)
                records += len(block.places)
                yield block
        except InvalidDataError as error:
            damage = error

    sha256 = hashlib.sha256()
    in_turn = in_order(
        examined,
        blocks(),
        threads,
        size_of=lambda block: len(block.content),
        bytes_at_most=_MOST_BYTES_WAITING,
    )
    with closing(in_turn) as blocks_examined:
        for block in blocks_examined:
            for place, outcome in block:
                _take(reading, split, shard, path, place, outcome)
                yield
    if damage is not None:
        reading.splits[split].complete = False
    # Behind the damage lies what was not read.
    digest = sha256.hexdigest() if damage is None else file_sha256(path)
    reading.findings.extend(_shard_findings(shard, path, records, digest, damage))


def _shard_findings(
    shard: Shard,
    path: Path,
    records: int,
    digest: str,
    damage: InvalidDataError | None,
) -> Iterator[Finding]:
    if damage is not None:
        problem = f"{damage.problem}; what comes after it was not read"
        yield Finding(ERROR, "damaged_record", problem, damage.where, damage.remedy)
    elif records != shard.examples:
        yield Finding(
            ERROR,
            "shard_count",
            f"the manifest says {shard.examples:,} records, the file has {records:,}",
            shard.path,
            "convert again, or correct the manifest",
        )
    if digest != shard.sha256:
        size = path.stat().st_size
        sizes = f"{size:,} bytes, not {shard.bytes:,}" if size != shard.bytes else "the size is right"
        yield Finding(
            ERROR,
            "changed_shard",
            f"the file is not the one that the manifest describes: its SHA-256 is {digest[:16]}..., "
            f"not {shard.sha256[:16]}... ({sizes})",
            shard.path,
            "restore the file, or convert again",
        )


def _take(
    reading: Reading, split: str, shard: Shard, path: Path, place: RecordPlace, examined: _Examined
) -> None:
    """Enters one examined record into the reading; called in the order of the records."""
    if not examined.digest:
        reading.splits[split].complete = False
        if examined.finding is not None:
            reading.findings.add(examined.finding)
        return
    if examined.finding is not None:
        reading.findings.add(_with_picture(reading, examined.finding, examined.labels, path, place))
    labels = examined.labels
    number = (
        reading.label_sets.setdefault(labels, len(reading.label_sets)) if reading.multi_label else labels[0]
    )
    reading.images.add(examined.digest, number, place.number, place.offset)
    if examined.width:
        reading.widths[examined.width] += 1
        reading.heights[examined.height] += 1
        reading.shorter_sides[min(examined.width, examined.height)] += 1
        reading.formats[examined.format] += 1
    where = record_name(shard, place.number, examined.filename)
    if examined.width:
        reading.extremes.add(examined.width, examined.height, where)
    in_range = [label for label in labels if 1 <= label <= len(reading.labels)]
    reading.splits[split].images += bool(in_range) or not labels
    for label, text in zip(labels, examined.texts, strict=True):
        if label not in in_range:
            finding = _label_out_of_range(label, text, reading.labels, where)
            reading.findings.add(_with_picture(reading, finding, labels, path, place))
            continue
        class_index = label_to_class(label)
        reading.splits[split].add(class_index, where)
        if text and text != reading.labels[class_index]:
            count, first_text, first = reading.other_names.get(label, (0, text, where))
            reading.other_names[label] = (count + 1, first_text, first)
        _take_sample(reading, split, class_index, examined, path, place, where)


def _take_sample(
    reading: Reading,
    split: str,
    class_index: int,
    examined: _Examined,
    path: Path,
    place: RecordPlace,
    where: str,
) -> None:
    """Keeps a small picture of a training image for its label, as long as there are few of it."""
    samples = reading.samples[class_index]
    wanted = max(1, min(SAMPLES_PER_LABEL, _MOST_SAMPLES // len(reading.labels)))
    if split == TRAIN and examined.width and len(samples) < wanted and class_index < _MOST_SAMPLES:
        samples.append(Thumbnail(_thumbnail_of(reading, path, place), title=where))


def _thumbnail_of(reading: Reading, path: Path, place: RecordPlace) -> str:
    """Returns a small picture of a record, which is read again: few are shown."""
    record = record_at(str(path), place.offset, where=str(path), multi_label=reading.multi_label)
    return thumbnail_source(record.encoded)


def label_names(labels: tuple[int, ...], known: tuple[str, ...]) -> str:
    """Returns the names of an image's labels in words, a number where there is no such label."""
    names = (known[label_to_class(one)] if 1 <= one <= len(known) else f"label {one}" for one in labels)
    return ", ".join(names) if labels else "no label"


def _with_picture(
    reading: Reading, finding: Finding, labels: tuple[int, ...], path: Path, place: RecordPlace
) -> Finding:
    """Returns the finding with a small picture of its record, if there are not many of its kind already."""
    if reading.findings.counts[finding.kind] >= _WITH_PICTURE:
        return finding
    source = _thumbnail_of(reading, path, place)
    if not source:
        return finding
    name = label_names(labels, reading.labels)
    return replace(finding, thumbnails=(Thumbnail(source, (name,), finding.where),))


def _label_out_of_range(label: int, text: str, labels: tuple[str, ...], where: str) -> Finding:
    ends = f" ({labels[0]!r} to {labels[-1]!r})" if labels else ""
    called = f"; the record calls it {text!r}" if text else ""
    return Finding(
        ERROR,
        "label_out_of_range",
        f"label {label} is not in 1..{len(labels)}{ends}{called}",
        where,
        "labels in a record start at 1: add 1 to every label"
        if label == 0
        else "correct the label, or give a label map that names it",
    )


def _range(counts: Counter[int]) -> Range | None:
    if not counts:
        return None
    # A distinct size is one entry of the counter, so this is short however many images there are.
    middle = (counts.total() - 1) // 2
    passed = 0
    for value in sorted(counts):
        passed += counts[value]
        if passed > middle:
            return Range(min(counts), value, max(counts))
    raise AssertionError("a median lies among the values")
