"""Writes rows to TFRecord shards: images are checked on threads, records written in order.

A finished shard is kept in the work folder together with a result file. A conversion that is started again
finds both and does not read these rows' images again.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import google_crc32c

from imgpipe.components.common.dataset import Shard, Split
from imgpipe.components.common.errors import MissingInputError, must_be_writable
from imgpipe.components.common.parallel import group_items, map_in_order
from imgpipe.components.common.records import ImageRecord, encode_example_parts, label_to_class
from imgpipe.components.common.resources import release_free_memory
from imgpipe.components.common.tfrecord import encode_record_sizes, frame_parts
from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.convert.label_set import parse_label_set
from imgpipe.components.convert.output_folder import WORK_FOLDER
from imgpipe.components.convert.row_table import Rejection, Row
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.preparation import PreparedImage, prepare_image
from imgpipe.components.storage import PARALLEL_DOWNLOADS, Location

# Part of a shard's fingerprint: increase it when a change makes the same rows give other bytes.
_FORMAT = 2
_RESULT_SUFFIX = ".json"
# The number of valid images that are remembered, at about 300 bytes each.
_MAX_REMEMBERED = 10_000
_PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: its file name and its rows, in order."""

    name: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class ImageRules:
    """The settings that determine an image's record.

    Attributes:
        label_numbers: The label on disk, 1..N, of every label name.
        max_image_pixels: Images with more pixels are rejected.
        max_image_bytes: Larger files are rejected.
        multi_label: Whether the rows' labels are label sets.
    """

    label_numbers: Mapping[str, int]
    max_image_pixels: int
    max_image_bytes: int
    multi_label: bool = False


@dataclass(frozen=True)
class ShardResult:
    """The result of writing a shard.

    Attributes:
        fingerprint: A hash of the rows and the rules.
        shard: The file, by name.
        images_per_label: The number of images per label, 1..N.
        reencoded: Path and reason of every re-encoded image, in the order of the output.
        rejected: The rows with a damaged image or a file that is not an image.
    """

    fingerprint: str
    shard: Shard
    images_per_label: dict[int, int]
    reencoded: tuple[dict[str, str], ...]
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class _Prepared:
    path: str
    labels: tuple[int, ...]
    reencoded: str
    record_size: int


def _fingerprint(plan: ShardPlan, rules: ImageRules) -> str:
    """Returns a hash that changes when a row of the shard, an image file or a rule changes."""
    rule = (_FORMAT, sorted(rules.label_numbers.items()), rules.max_image_pixels, rules.max_image_bytes)
    kind = (*rule, "multi_label") if rules.multi_label else rule
    content = hashlib.sha256(repr(kind).encode("utf-8", "surrogateescape"))
    for row in plan.rows:
        text = repr((row.file, row.line, row.path, row.label, row.location, row.bytes, row.version))
        content.update(text.encode("utf-8", "surrogatepass"))
    return content.hexdigest()


def find_finished_shard(
    folder: Location, names: Mapping[str, int], plan: ShardPlan, rules: ImageRules
) -> ShardResult | None:
    """Returns the result of a shard that another process finished with the same rows, else None.

    Args:
        folder: The output folder.
        names: The names and sizes of its files.
        plan: The shard.
        rules: The settings of the conversion.
    """
    result_name = f"{WORK_FOLDER}/{plan.name}{_RESULT_SUFFIX}"
    size = names.get(f"{WORK_FOLDER}/{plan.name}")
    if size is None or result_name not in names:
        return None
    try:
        result = _parse_result(json.loads((folder / result_name).read()))
    except (ValueError, TypeError, KeyError, OSError):
        return None
    same = result.shard.bytes == size and result.fingerprint == _fingerprint(plan, rules)
    return result if same else None


def write_shards(
    plans: Sequence[ShardPlan],
    rules: ImageRules,
    folder: Location,
    on_images: Callable[[int], None] = lambda _: None,
    *,
    threads: int,
    images: ImageReader,
) -> list[ShardResult]:
    """Writes shards into the work folder, one after the other.

    Args:
        plans: The shards.
        rules: The settings of the conversion.
        folder: The output folder; the shards are written to its work folder.
        on_images: Called after every few images, with their number.
        threads: The number of threads that check images. The output does not depend on it.
        images: Reads them.

    Raises:
        OutputError: if a shard cannot be written.
        InterruptedRunError: if a remote store cannot be reached.
    """
    # A sample of the rows is enough to see whether images are remote: more threads do no harm.
    if any(
        not plan.rows[number].location.is_local for plan in plans for number in range(0, len(plan.rows), 100)
    ):
        threads = max(threads, PARALLEL_DOWNLOADS)

    valid_images = _ValidImages()
    work = folder / WORK_FOLDER
    results: list[ShardResult] = []

    # Downloads are not grouped: each should wait for the network on its own thread.
    limit = 1 if threads >= PARALLEL_DOWNLOADS else 16
    groups = (
        rows for plan in plans for rows in group_items(plan.rows, lambda row: row.bytes, max_items=limit)
    )
    with (
        closing(
            map_in_order(lambda rows: _prepare_rows(rows, rules, valid_images, images), groups, threads)
        ) as prepared,
        work.staging() as staging,
    ):
        for plan in plans:
            partial = staging / (plan.name + _PARTIAL_SUFFIX)
            with must_be_writable(f"to {folder!r}"), partial.open("wb", buffering=0) as file:
                result = _write_shard(plan, rules, prepared, file, on_images)
            with must_be_writable(f"to {folder!r}"):
                (work / plan.name).move_from(partial)
                # The shard first: a result file always describes a complete shard.
                text = json.dumps(asdict(result), ensure_ascii=True, sort_keys=True)
                (work / f"{plan.name}{_RESULT_SUFFIX}").write(text.encode())
            results.append(result)
            # Otherwise memory use grows with every shard.
            release_free_memory()
    return results


def _write_shard(
    plan: ShardPlan,
    rules: ImageRules,
    prepared: Iterator[tuple[bytes, Sequence[_Prepared | Rejection]]],
    file: Any,
    on_images: Callable[[int], None],
) -> ShardResult:
    sha256 = hashlib.sha256()
    images_per_label: dict[int, int] = {}
    reencoded: list[dict[str, str]] = []
    rejected: list[Rejection] = []
    record_sizes = array("L")
    rows = size = 0
    while rows < len(plan.rows):
        records, outcomes = next(prepared)
        _write_all(file, records)
        # Hashed here, so that the file is not read again.
        sha256.update(records)
        size += len(records)
        rows += len(outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Rejection):
                rejected.append(outcome)
                continue
            record_sizes.append(outcome.record_size)
            for label in outcome.labels:
                images_per_label[label] = images_per_label.get(label, 0) + 1
            if outcome.reencoded:
                reencoded.append({"path": outcome.path, "reason": outcome.reencoded})
        on_images(len(outcomes))
    sizes = encode_record_sizes(record_sizes)
    shard = Shard(plan.name, len(record_sizes), size, sha256.hexdigest(), sizes)
    # Last, while the threads already prepare the next shard's images.
    fingerprint = _fingerprint(plan, rules)
    return ShardResult(fingerprint, shard, images_per_label, tuple(reencoded), tuple(rejected))


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        # An unbuffered write may be partial, e.g. on a full disk.
        view = view[file.write(view) :]


class _ValidImages:
    """A cache of valid images: rows are repeated to balance classes, and decoding is the largest cost.

    A file is identified by location, size, version and the CRC-32C of its content, which is always read.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[Location, int, int, int], tuple[str, int, int]] = {}

    def prepare(self, row: Row, data: bytes, max_pixels: int) -> PreparedImage:
        """Calls ``prepare_image`` unless the image is known to be valid.

        Raises:
            ImageError: as ``prepare_image`` does.
        """
        key = (row.location, len(data), row.version, google_crc32c.value(data))
        known = self._images.get(key)
        if known is not None:
            return PreparedImage(data, *known)
        image = prepare_image(data, max_pixels)
        if not image.reencoded and len(self._images) < _MAX_REMEMBERED:
            self._images[key] = (image.format, image.height, image.width)
        return image


def _prepare_rows(
    rows: Sequence[Row], rules: ImageRules, valid_images: _ValidImages, images: ImageReader
) -> tuple[bytes, Sequence[_Prepared | Rejection]]:
    """Returns the concatenated records of the valid rows, and the outcomes of all."""
    # Joined here, so that the writing thread needs the interpreter lock once per group, not per record.
    parts: list[bytes] = []
    outcomes = [_prepare_row(row, rules, valid_images, images, parts) for row in rows]
    return b"".join(parts), outcomes


def _prepare_row(
    row: Row, rules: ImageRules, valid_images: _ValidImages, images: ImageReader, parts: list[bytes]
) -> _Prepared | Rejection:
    """Returns the outcome of a row and appends the parts of its record, if any, to ``parts``."""
    try:
        data = images.read(row.location)
        if len(data) > rules.max_image_bytes:
            raise ImageError(f"the file grew to {len(data):,} bytes, more than max_image_bytes allows")
        image = valid_images.prepare(row, data, rules.max_image_pixels)
    except ImageError as error:
        return Rejection(row.file, row.line, row.path, row.label, str(error))
    except MissingInputError as error:
        return Rejection(row.file, row.line, row.path, row.label, error.problem)
    except OSError as error:
        reason = f"cannot read {row.location}: {error.strerror}"
        return Rejection(row.file, row.line, row.path, row.label, reason)
    record = ImageRecord(
        encoded=image.encoded,
        filename=row.path,
        format=image.format,
        height=image.height,
        width=image.width,
        **_label_fields(row, rules),
    )
    framed = frame_parts(encode_example_parts(record))
    parts += framed
    return _Prepared(row.path, record.all_labels, image.reencoded, sum(map(len, framed)))


def _label_fields(row: Row, rules: ImageRules) -> dict[str, Any]:
    if not rules.multi_label:
        return {"label": rules.label_numbers[row.label], "text": row.label}
    # Ordered by number, which may differ from the order of the names.
    pairs = sorted((rules.label_numbers[name], name) for name in parse_label_set(row.label))
    return {"labels": tuple(number for number, _ in pairs), "texts": tuple(name for _, name in pairs)}


def _parse_result(content: dict[str, Any]) -> ShardResult:
    return ShardResult(
        fingerprint=content["fingerprint"],
        shard=Shard(**content["shard"]),
        images_per_label={int(label): count for label, count in content["images_per_label"].items()},
        reencoded=tuple(content["reencoded"]),
        rejected=tuple(Rejection(**row) for row in content["rejected"]),
    )


def make_split(shards: Sequence[Shard], counts: Iterable[Mapping[int, int]], labels: int) -> Split:
    """Returns a split of shards with the given numbers of images per label, 1..``labels``."""
    images_per_label = [0] * labels
    for shard_counts in counts:
        for label, count in shard_counts.items():
            images_per_label[label_to_class(label)] += count
    return Split(tuple(shards), tuple(images_per_label))
