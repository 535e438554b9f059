"""Reads the records of a data set's split."""

from collections.abc import Iterator
from pathlib import Path

from imgpipe.components.common.dataset import Split, shard_paths
from imgpipe.components.common.errors import InternalError
from imgpipe.components.common.records import ImageRecord, decode_example
from imgpipe.components.common.tfrecord import read_records


def split_records(folder: Path, split: Split, *, multi_label: bool = False) -> Iterator[ImageRecord]:
    """Yields the split's records in order, shard by shard.

    Args:
        folder: Where the manifest lies.
        split: One of the manifest's splits.
        multi_label: What the manifest says.

    Raises:
        MissingInputError: if a shard is not there.
        InvalidDataError: at the first damaged record, naming file and record.
    """
    for path in shard_paths(folder, split):
        for number, (_, data) in enumerate(read_records(path)):
            yield decode_example(data, where=f"{path}, record {number}", multi_label=multi_label)


def record_place(folder: Path, split: Split, index: int) -> str:
    """Returns the file and the record in it, for a message, of the split's record ``index`` (from 0).

    Raises:
        InternalError: if the split has no such record.
    """
    number = index
    for path, shard in zip(shard_paths(folder, split), split.shards, strict=True):
        if number < shard.examples:
            return f"{path}, record {number}"
        number -= shard.examples
    raise InternalError(f"record {index} of a split of {split.examples}")
