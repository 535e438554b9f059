"""Reads the records of a data set's split."""

from collections.abc import Iterator
from pathlib import Path

from components.common.dataset import Split, shard_paths
from components.common.records import ImageRecord, decode_example
from components.common.tfrecord import read_records


def split_records(folder: Path, split: Split) -> Iterator[ImageRecord]:
    """Yields the split's records in order, shard by shard.

    Args:
        folder: Where the manifest lies.
        split: One of the manifest's splits.

    Raises:
        MissingInputError: if a shard is not there.
        InvalidDataError: at the first damaged record, naming file and record.
    """
    for path in shard_paths(folder, split):
        for number, (_, data) in enumerate(read_records(path)):
            yield decode_example(data, where=f"{path}, record {number}")
