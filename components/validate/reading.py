"""Reads every record of every shard once, and keeps little of it."""

import hashlib
import struct
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from components.common.dataset import TRAIN, Manifest, Shard, file_sha256
from components.common.errors import InvalidDataError, MissingInputError
from components.common.html_page import Thumbnail, thumbnail_source
from components.common.images import ImageError, image_format_of, prepare_image
from components.common.log import Progress
from components.common.records import ImageRecord, decode_example, label_to_class
from components.common.tfrecord import read_records
from components.common.threads import usable_threads
from components.validate.findings import ERROR, WARNING, Bucket, Finding, FindingList, ImageSizes, Range

SAMPLES_PER_LABEL = 6
# A page of more small pictures than this is megabytes that nobody scrolls through.
_MOST_SAMPLES = 300
_MOST_WORKERS = 8
_WINDOW_PER_WORKER = 4
DIGEST_BYTES = 32
_RECORD_LENGTH = struct.Struct("<Q")
_RECORD_HEADER_BYTES = 12
_BMP_DEPTH_OFFSET = 28
_BMP_DEPTH_AND_COMPRESSION = struct.Struct("<HI")
_BMP_RUN_LENGTHS = (1, 2)
_BUCKET_STARTS = (0, 32, 64, 128, 224, 320, 512, 1024, 2048)


@dataclass
class ImageTable:
    """What is kept of every image, 60 bytes each: enough to find equal ones and to read them again.

    Images are numbered from 0 in the order of reading; ``shards`` says which numbers are whose.
    """

    digests: bytearray = field(default_factory=bytearray)
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
        complete: Whether every record of it was read, none damaged.
    """

    images_per_label: list[int]
    complete: bool = True


@dataclass
class Reading:
    """What was read of a data set; filled in while it is read."""

    labels: tuple[str, ...]
    splits: dict[str, SplitReading]
    images: ImageTable = field(default_factory=ImageTable)
    findings: FindingList = field(default_factory=FindingList)
    widths: Counter[int] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    shorter_sides: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
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


def read_dataset(manifest: Manifest, folder: Path) -> Reading:
    """Reads every shard of every split and checks what can be checked of a record by itself.

    Records are decoded by a few threads (libjpeg-turbo lets go of the interpreter's lock), a few
    dozen at a time. A damaged record ends the reading of its shard, because nothing says where the next one
    begins; the other shards are read all the same.

    Args:
        manifest: What should be there.
        folder: Where the manifest lies.
    """
    reading = Reading(
        labels=manifest.labels,
        splits={name: SplitReading([0] * manifest.num_classes) for name in manifest.splits},
        samples=[[] for _ in manifest.labels],
    )
    progress = Progress("validate", sum(split.examples for split in manifest.splits.values()), "examples")
    workers = usable_threads(_MOST_WORKERS)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for split_name, split in manifest.splits.items():
            for shard in split.shards:
                for _ in _read_shard(reading, split_name, shard, folder / shard.path, pool, workers):
                    done += 1
                    progress.update(done)
    return reading


def record_at(path: Path, offset: int, *, where: str) -> ImageRecord:
    """Reads one record again, whose offset and soundness are known from the first reading."""
    with path.open("rb") as file:
        file.seek(offset)
        length = _RECORD_LENGTH.unpack(file.read(_RECORD_LENGTH.size))[0]
        file.seek(offset + _RECORD_HEADER_BYTES)
        return decode_example(file.read(length), where=where)


def record_name(shard: Shard, record_number: int, filename: str = "") -> str:
    """Returns the words by which a record is named everywhere in the step."""
    return f"{shard.path}, record {record_number}" + (f" ({filename})" if filename else "")


@dataclass(frozen=True)
class _Examined:
    """A record after a worker has looked at it; ``record`` is None if it is no tf.Example of ours."""

    record: ImageRecord | None
    digest: bytes = b""
    format: str = ""
    width: int = 0
    height: int = 0
    finding: Finding | None = None


def _examine(data: bytes, shard: Shard, record_number: int) -> _Examined:
    where = record_name(shard, record_number)
    try:
        record = decode_example(data, where=where)
    except InvalidDataError as error:
        return _Examined(None, finding=Finding(ERROR, "invalid_record", error.problem, where, error.remedy))
    digest = hashlib.sha256(record.encoded).digest()
    where = record_name(shard, record_number, record.filename)
    try:
        image = prepare_image(record.encoded)
    except ImageError as error:
        return _Examined(record, digest, finding=_refused(str(error), where))
    image_format = image_format_of(record.encoded)
    finding = _reencoded(record.encoded, image_format, image.reencoded, where) if image.reencoded else None
    return _Examined(record, digest, image_format, image.width, image.height, finding)


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
    reading: Reading, split: str, shard: Shard, path: Path, pool: ThreadPoolExecutor, workers: int
) -> Iterator[None]:
    """Reads one shard into ``reading``; yields once for each record."""
    reading.images.begin_shard(split, shard)
    digest = pool.submit(file_sha256, path)
    window: deque[tuple[int, int, Future[_Examined]]] = deque()
    records = 0
    damage: InvalidDataError | MissingInputError | None = None
    try:
        for offset, data in read_records(path):
            window.append((records, offset, pool.submit(_examine, data, shard, records)))
            records += 1
            if len(window) > workers * _WINDOW_PER_WORKER:
                _take(reading, split, shard, *window.popleft())
                yield
    except (InvalidDataError, MissingInputError) as error:
        damage = error
    while window:
        _take(reading, split, shard, *window.popleft())
        yield
    if damage is not None:
        reading.splits[split].complete = False
    reading.findings.extend(_shard_findings(shard, path, records, digest, damage))


def _shard_findings(
    shard: Shard,
    path: Path,
    records: int,
    digest: "Future[str]",
    damage: InvalidDataError | MissingInputError | None,
) -> Iterator[Finding]:
    if isinstance(damage, MissingInputError):
        # Nothing more can be said of a file that cannot be opened.
        digest.exception()
        remedy = "put the file back, or convert again"
        yield Finding(ERROR, "missing_shard", damage.problem, shard.path, remedy)
        return
    if damage is not None:
        where = damage.where.replace(str(path), shard.path)
        problem = f"{damage.problem}; the records after it were not read"
        yield Finding(ERROR, "damaged_record", problem, where, damage.remedy)
    elif records != shard.examples:
        yield Finding(
            ERROR,
            "shard_count",
            f"the manifest says {shard.examples:,} records, the file has {records:,}",
            shard.path,
            "convert again, or correct the manifest",
        )
    if digest.result() != shard.sha256:
        size = path.stat().st_size
        sizes = f"{size:,} bytes, not {shard.bytes:,}" if size != shard.bytes else "the size is right"
        yield Finding(
            ERROR,
            "changed_shard",
            f"the file is not the one that the manifest describes: its SHA-256 is {digest.result()[:16]}..., "
            f"not {shard.sha256[:16]}... ({sizes})",
            shard.path,
            "restore the file, or convert again",
        )


def _take(
    reading: Reading, split: str, shard: Shard, record_number: int, offset: int, future: "Future[_Examined]"
) -> None:
    """Enters one examined record into the reading; called in the order of the records."""
    examined = future.result()
    if examined.finding is not None:
        reading.findings.add(examined.finding)
    record = examined.record
    if record is None:
        reading.splits[split].complete = False
        return
    reading.images.add(examined.digest, record.label, record_number, offset)
    if examined.width:
        reading.widths[examined.width] += 1
        reading.heights[examined.height] += 1
        reading.shorter_sides[min(examined.width, examined.height)] += 1
        reading.formats[examined.format] += 1
    where = record_name(shard, record_number, record.filename)
    if not 1 <= record.label <= len(reading.labels):
        reading.findings.add(_label_out_of_range(record.label, len(reading.labels), where))
        return
    class_index = label_to_class(record.label)
    reading.splits[split].images_per_label[class_index] += 1
    if record.text and record.text != reading.labels[class_index]:
        count, text, first = reading.other_names.get(record.label, (0, record.text, where))
        reading.other_names[record.label] = (count + 1, text, first)
    samples = reading.samples[class_index]
    wanted = max(1, min(SAMPLES_PER_LABEL, _MOST_SAMPLES // len(reading.labels)))
    if split == TRAIN and examined.width and len(samples) < wanted and class_index < _MOST_SAMPLES:
        samples.append(Thumbnail(thumbnail_source(record.encoded), title=where))


def _label_out_of_range(label: int, num_classes: int, where: str) -> Finding:
    return Finding(
        ERROR,
        "label_out_of_range",
        f"label {label} is not in 1..{num_classes}",
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
