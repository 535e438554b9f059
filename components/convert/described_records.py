"""Finds the manifest that convert wrote beside a user's TFRecord files, so that they are not read again."""

import dataclasses
from collections.abc import Mapping, Sequence

from imgpipe.components.common.dataset import MANIFEST_NAME, Manifest, Split, read_manifest_at
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.storage import FileStatus, Location


def described_splits(
    files: Mapping[str, Mapping[Location, FileStatus]], labels: Sequence[str], *, multi_label: bool
) -> tuple[dict[str, Split], tuple[str, ...]] | None:
    """Returns the splits and the label names of a manifest, with absolute paths.

    It must describe exactly these files, with their sizes, and be at least as new as each of them. Whether
    their contents are what it says is checked by the validate step, and wherever they are copied.

    Args:
        files: By split.
        labels: The label names from the user's labels file, or empty.
        multi_label: Whether a record may have several labels or none.

    Returns:
        None if there is no such manifest.
    """
    folders = {file.absolute().parent for split_files in files.values() for file in split_files}
    if len(folders) != 1:
        return None
    folder = folders.pop()
    manifest, written_ns = _manifest_in(folder)
    if (
        manifest is None
        or manifest.multi_label != multi_label
        or tuple(labels or manifest.labels) != manifest.labels
    ):
        return None
    splits = {}
    for name, split_files in files.items():
        shards = manifest.splits[name].shards if name in manifest.splits else ()
        found = [(str(file.absolute()), status.size) for file, status in split_files.items()]
        if [(str(folder / shard.path), shard.bytes) for shard in shards] != found:
            return None
        if any(shard.examples and not shard.record_sizes for shard in shards):
            # Of an older version.
            return None
        if any(file.written_ns(status.version) > written_ns for file, status in split_files.items()):
            return None
        absolute = (dataclasses.replace(shard, path=str(folder / shard.path)) for shard in shards)
        splits[name] = dataclasses.replace(manifest.splits[name], shards=tuple(absolute))
    log_event(
        "convert_from_manifest",
        f"convert: {folder / MANIFEST_NAME!s} describes the files; they are not read again",
    )
    return splits, manifest.labels


def _manifest_in(folder: Location) -> tuple[Manifest | None, int]:
    """Returns the manifest, None if there is none, and the latest time at which it can have been written."""
    location = folder / MANIFEST_NAME
    try:
        status = location.status()
        if status is None:
            return None, 0
        return read_manifest_at(folder), location.written_ns(status.version) + location.time_step_ns - 1
    except (InvalidDataError, MissingInputError, OSError):
        # Another program's file of this name.
        return None, 0
