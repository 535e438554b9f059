"""Reads a data set: its records, in order, and local copies of shards in a remote store."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imgpipe.components.common.dataset import (
    Shard,
    Split,
    read_manifest,
    shard_location,
    shard_paths,
    with_paths,
    write_manifest,
)
from imgpipe.components.common.errors import InternalError, InvalidDataError, OutputError
from imgpipe.components.common.log import Progress, log_event
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import ImageRecord, decode_example
from imgpipe.components.common.tfrecord import read_records
from imgpipe.components.storage import is_file_name, is_local

# The next shard's first parts arrive while the last ones of a shard are hashed.
_PARALLEL_DOWNLOADS = 3


def read_split(folder: Path, split: Split, *, multi_label: bool = False) -> Iterator[ImageRecord]:
    """Yields the split's records in order, shard by shard.

    Args:
        folder: The manifest's folder.
        split: One of the manifest's splits.
        multi_label: The manifest's ``multi_label``.

    Raises:
        MissingInputError: if a shard is missing.
        InvalidDataError: at the first damaged record, naming file and record.
    """
    for path in shard_paths(folder, split):
        for number, (_, data) in enumerate(read_records(path)):
            yield decode_example(data, where=f"{path}, record {number}", multi_label=multi_label)


def locate_record(folder: Path, split: Split, index: int) -> str:
    """Returns the file and the record number in it, for a message, of record ``index`` of a split (from 0).

    Raises:
        InternalError: if the split has no such record.
    """
    number = index
    for path, shard in zip(shard_paths(folder, split), split.shards, strict=True):
        if number < shard.examples:
            return f"{path}, record {number}"
        number -= shard.examples
    raise InternalError(f"record {index} of a split of {split.examples}")


@contextmanager
def local_dataset(folder: Path, *splits: str) -> Iterator[Path]:
    """Yields a folder with a manifest whose shards of some splits are local files.

    It is ``folder`` itself, unless shards are in a remote store: then they are copied to a temporary folder,
    which is removed at the end, and their checksums are compared with the manifest's.

    Args:
        folder: The folder of the data set's ``manifest.json``.
        splits: The splits that are read. Nothing else is copied; a split that is not there is ignored.

    Raises:
        MissingInputError: if the manifest or a shard is missing.
        InvalidDataError: if a shard has changed since the manifest was made.
        OutputError: if there is not enough disk space for the copies.
        InterruptedRunError: if a remote store cannot be reached.
    """
    manifest = read_manifest(folder)
    shards = [shard for name, split in manifest.splits.items() if name in splits for shard in split.shards]
    if all(is_local(shard.path) for shard in shards):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="imgpipe-data-") as temporary:
        _check_space(Path(temporary), shards)
        paths = _copy_shards(shards, folder, Path(temporary))
        copied = with_paths(
            manifest, lambda shard: paths.get(shard.path) or str(shard_location(folder, shard).absolute())
        )
        write_manifest(Path(temporary), copied)
        yield Path(temporary)


def _copy_shards(shards: Sequence[Shard], source: Path, target: Path) -> dict[str, str]:
    """Copies shards to numbered folders and returns their new paths by the old ones."""
    total = sum(shard.bytes for shard in shards)
    log_event(
        "copying_shards",
        f"copying {plural(len(shards), 'shard')}, {total / 1e6:,.0f} MB, to {target}",
        shards=len(shards),
        bytes=total,
    )
    # Numbered folders, because shards of several folders may have the same name.
    names = [f"{number:05d}/{_file_name(shard)}" for number, shard in enumerate(shards)]
    progress = Progress("copy", total, "bytes")
    copies = zip(shards, names, strict=True)
    for size in map_in_order(
        lambda copy: _copy(source, copy[0], target / copy[1]), copies, _PARALLEL_DOWNLOADS
    ):
        progress.add(size)
    return {shard.path: name for shard, name in zip(shards, names, strict=True)}


def _file_name(shard: Shard) -> str:
    name = shard.path.rpartition("/")[2]
    # The manifest may come from a bucket to which others write.
    return name if is_file_name(name) else "shard"


def _copy(source: Path, shard: Shard, path: Path) -> int:
    path.parent.mkdir(parents=True)
    location = shard_location(source, shard)
    content = hashlib.sha256()
    location.link_or_download(path, content.update)
    if content.hexdigest() != shard.sha256:
        raise InvalidDataError(
            "the shard has changed since its manifest was made",
            where=str(location),
            remedy="run the convert step again",
        )
    return shard.bytes


def _check_space(folder: Path, shards: Sequence[Shard]) -> None:
    needed = sum(shard.bytes for shard in shards if not is_local(shard.path))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"the remote shards take {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free",
            where=str(folder),
            remedy="set TMPDIR to a folder on a larger disk, or mount the bucket and give local paths",
        )
