"""Rows to TFRecord shards: images checked on threads, records written in order."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from components.common.dataset import Shard, Split, file_sha256
from components.common.images import ImageError, prepare_image
from components.common.records import ImageRecord, encode_example, label_to_class
from components.common.storage import written_whole
from components.common.tfrecord import write_record
from components.convert.output_folder import shard_name, writing_explained
from components.convert.parallel import in_order
from components.convert.rows import Rejection, Row


@dataclass(frozen=True)
class WrittenSplit:
    """What became of a split's rows.

    Attributes:
        split: The shards, relative to their folder.
        reencoded: Path and reason of every image whose bytes were changed, in the order of the output.
        rejected: The rows whose image is damaged or none.
    """

    split: Split
    reencoded: tuple[dict[str, str], ...]
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class _Prepared:
    example: bytes
    label: int
    reencoded: str


def write_split(
    name: str,
    rows: Sequence[Row],
    number_of_label: Mapping[str, int],
    folder: Path,
    *,
    shard_bytes: int,
    threads: int,
    on_image: Callable[[], None],
) -> WrittenSplit:
    """Writes the rows, in their order, to ``name-00000-of-0000N`` and so on.

    The number of shards follows from the sizes of the images' files, so it is known before the
    first image is opened; each shard gets an equal share of the rows.

    Args:
        name: The split's name.
        rows: The rows in the order in which they are written.
        number_of_label: The label on disk, 1..N, of every label's name.
        folder: Where the shards go.
        shard_bytes: The size of a shard, roughly.
        threads: How many threads check images. The output does not depend on it.
        on_image: Called after each image.

    Raises:
        OutputError: if a shard cannot be written.
    """
    count = min(len(rows), max(1, -(-sum(row.bytes for row in rows) // shard_bytes)))
    images_per_label = [0] * len(number_of_label)
    shards: list[Shard] = []
    reencoded: list[dict[str, str]] = []
    rejected: list[Rejection] = []
    work = functools.partial(_prepare, number_of_label=number_of_label)
    with closing(in_order(work, rows, threads)) as outcomes:
        for number in range(count):
            path = folder / shard_name(name, number, count)
            examples = 0
            begin, end = number * len(rows) // count, (number + 1) * len(rows) // count
            with writing_explained(folder), written_whole(path) as temporary, temporary.open("wb") as file:
                for row in rows[begin:end]:
                    outcome = next(outcomes)
                    on_image()
                    if isinstance(outcome, Rejection):
                        rejected.append(outcome)
                        continue
                    write_record(file, outcome.example)
                    examples += 1
                    images_per_label[label_to_class(outcome.label)] += 1
                    if outcome.reencoded:
                        reencoded.append({"path": row.path, "reason": outcome.reencoded})
            shards.append(Shard(path.name, examples, path.stat().st_size, file_sha256(path)))
    return WrittenSplit(Split(tuple(shards), tuple(images_per_label)), tuple(reencoded), tuple(rejected))


def _prepare(row: Row, *, number_of_label: Mapping[str, int]) -> _Prepared | Rejection:
    try:
        image = prepare_image(Path(row.location).read_bytes())
    except ImageError as error:
        return Rejection(row.file, row.line, row.path, row.label, str(error))
    except OSError as error:
        reason = f"cannot read {row.location}: {error.strerror}"
        return Rejection(row.file, row.line, row.path, row.label, reason)
    label = number_of_label[row.label]
    record = ImageRecord(
        encoded=image.encoded,
        label=label,
        text=row.label,
        filename=row.path,
        format=image.format,
        height=image.height,
        width=image.width,
    )
    return _Prepared(encode_example(record), label, image.reencoded)
