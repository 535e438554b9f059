"""Rows to TFRecord shards: images checked on threads, records written in order, finished shards kept.

A finished shard lies in the work folder beside a file that says what became of its rows. A conversion
that is started again finds both and does not read these rows' images a second time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import google_crc32c

from imgpipe.components.common.dataset import Shard
from imgpipe.components.common.errors import InternalError, MissingInputError
from imgpipe.components.common.parallel import group_items, map_in_order
from imgpipe.components.common.records import ImageRecord, encode_example_parts
from imgpipe.components.common.resources import release_free_memory
from imgpipe.components.common.tfrecord import frame_parts
from imgpipe.components.convert.label_set import parse_label_set
from imgpipe.components.convert.output_folder import WORK_FOLDER, explain_write_errors
from imgpipe.components.convert.row_table import Rejection, Row
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.preparation import PreparedImage, prepare_image
from imgpipe.components.storage import PARALLEL_DOWNLOADS, Location

# Part of a shard's fingerprint: raise it when the same rows come to give other bytes.
_FORMAT = 1
_RESULT_SUFFIX = ".json"
# Of so many files it is remembered that they are sound, at some 300 bytes each.
_MAX_REMEMBERED = 10_000
_PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class ShardPlan:
    """A shard that is to be written.

    Attributes:
        name: Its file name.
        rows: Its rows, in the order in which they are written.
    """

    name: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class ImageRules:
    """What an image's record depends on besides the image.

    Attributes:
        label_numbers: The label on disk, 1..N, of every label's name.
        max_image_pixels: An image of more pixels is rejected.
        max_image_bytes: A file of more bytes is rejected.
        multi_label: Whether the rows' labels are texts of label sets.
    """

    label_numbers: Mapping[str, int]
    max_image_pixels: int
    max_image_bytes: int
    multi_label: bool = False


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard's rows.

    Attributes:
        fingerprint: Of the rows and the rules.
        shard: The file, by its name.
        images_per_label: How many images each label, 1..N, has.
        reencoded: Path and reason of every image whose bytes were changed, in the order of the output.
        rejected: The rows whose image is damaged or none.
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


@dataclass(frozen=True)
class _PreparedRows:
    """What became of some rows of one shard, and, end to end, the records of those that are sound."""

    records: bytes
    outcomes: Sequence[_Prepared | Rejection]


def _fingerprint(plan: ShardPlan, rules: ImageRules) -> str:
    """Returns a hash that changes when a row of the shard, an image's file or a rule does."""
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
    """Returns what an earlier conversion made of the same rows; None if it did not finish the shard.

    Args:
        folder: The output folder.
        names: The names of its files, and their sizes.
        plan: The shard.
        rules: What its records depend on besides the images.
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
    *,
    threads: int,
    on_images: Callable[[int], None] = lambda _: None,
) -> Iterator[ShardResult]:
    """Writes shards into the work folder, one after the other, and yields what became of their rows.

    Args:
        plans: The shards.
        rules: What a record depends on.
        folder: The output folder; the shards go into its work folder.
        threads: How many threads check images. The output does not depend on it.
        on_images: Called after every few images, with their number.

    Raises:
        OutputError: if a shard cannot be written.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    # One row in a hundred shows whether images are remote: more threads do no harm.
    if any(
        not plan.rows[number].location.is_local for plan in plans for number in range(0, len(plan.rows), 100)
    ):
        threads = max(threads, PARALLEL_DOWNLOADS)

    checked = _ValidImages()
    work = folder / WORK_FOLDER

    # One by one from the network: there it is the waiting that is shared out.
    limit = 1 if threads >= PARALLEL_DOWNLOADS else 16
    groups = (
        rows for plan in plans for rows in group_items(plan.rows, lambda row: row.bytes, max_items=limit)
    )
    with (
        closing(map_in_order(lambda rows: _prepare_rows(rows, rules, checked), groups, threads)) as prepared,
        work.staging() as staging,
    ):
        for plan in plans:
            partial = staging / (plan.name + _PARTIAL_SUFFIX)
            with explain_write_errors(folder), partial.open("wb", buffering=0) as file:
                result = _write_shard(plan, rules, prepared, file, on_images)
            with explain_write_errors(folder):
                (work / plan.name).move_from(partial)
                # The shard first: what this says is always true.
                text = json.dumps(asdict(result), ensure_ascii=True, sort_keys=True)
                (work / f"{plan.name}{_RESULT_SUFFIX}").write(text.encode())
            yield result
            # Else a long conversion takes a little more with every shard.
            release_free_memory()


def _write_shard(
    plan: ShardPlan,
    rules: ImageRules,
    prepared: Iterator[_PreparedRows],
    file: Any,
    on_images: Callable[[int], None],
) -> ShardResult:
    sha256 = hashlib.sha256()
    images_per_label: dict[int, int] = {}
    reencoded: list[dict[str, str]] = []
    rejected: list[Rejection] = []
    rows = examples = size = 0
    while rows < len(plan.rows):
        some = next(prepared)
        _write_all(file, some.records)
        # On the way, so that the file is not read again.
        sha256.update(some.records)
        size += len(some.records)
        rows += len(some.outcomes)
        for outcome in some.outcomes:
            if isinstance(outcome, Rejection):
                rejected.append(outcome)
                continue
            examples += 1
            for label in outcome.labels:
                images_per_label[label] = images_per_label.get(label, 0) + 1
            if outcome.reencoded:
                reencoded.append({"path": outcome.path, "reason": outcome.reencoded})
        on_images(len(some.outcomes))
    shard = Shard(plan.name, examples, size, sha256.hexdigest())
    # Last, while nothing else waits for it: the threads are at the next shard's images already.
    fingerprint = _fingerprint(plan, rules)
    return ShardResult(fingerprint, shard, images_per_label, tuple(reencoded), tuple(rejected))


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        # An unbuffered file may take less than it is given, e.g. at the end of a disk.
        view = view[file.write(view) :]


class _ValidImages:
    """Files that were found sound as they are: rows are repeated to balance classes, and decoding costs most.

    A file is known again by place, size, version and the CRC-32C of what was read this time, too.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[Location, int, int, int], tuple[str, int, int]] = {}

    def prepared(self, row: Row, data: bytes, max_pixels: int) -> PreparedImage:
        """Returns what ``prepare_image`` does, from memory where it can.

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


def _prepare_rows(rows: Sequence[Row], rules: ImageRules, checked: _ValidImages) -> _PreparedRows:
    # Joined here: the thread that writes and hashes then takes turns with the others once for all of them.
    parts: list[bytes] = []
    outcomes = [_prepare(row, rules, checked, parts) for row in rows]
    return _PreparedRows(b"".join(parts), outcomes)


def _prepare(row: Row, rules: ImageRules, checked: _ValidImages, parts: list[bytes]) -> _Prepared | Rejection:
    """Says what becomes of a row; adds its record's parts to ``parts`` if there is one."""
    try:
        data = row.location.read()
        if len(data) > rules.max_image_bytes:
            raise ImageError(f"the file has grown to {len(data):,} bytes, more than max_image_bytes allows")
        image = checked.prepared(row, data, rules.max_image_pixels)
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
        **_labels_of(row, rules),
    )
    parts += frame_parts(encode_example_parts(record))
    return _Prepared(row.path, record.all_labels, image.reencoded)


def _labels_of(row: Row, rules: ImageRules) -> dict[str, Any]:
    """Returns the fields of a record that say its labels."""
    if not rules.multi_label:
        return {"label": rules.label_numbers[row.label], "text": row.label}
    # In the order of their numbers, which that of the names need not be.
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


def read_shard_result(folder: Location, name: str) -> ShardResult:
    """Reads what became of a shard that another process has just finished.

    Raises:
        InternalError: if it did not finish it.
    """
    try:
        return _parse_result(json.loads((folder / WORK_FOLDER / f"{name}{_RESULT_SUFFIX}").read()))
    except (OSError, MissingInputError, ValueError, KeyError, TypeError):
        raise InternalError(
            f"the runner ended without an error, but there is no shard {name!r}",
            where=str(folder / WORK_FOLDER),
            remedy="is the output folder one that all of the runner's workers share?",
        ) from None
