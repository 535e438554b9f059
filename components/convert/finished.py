"""Recognizes what a manifest of an earlier conversion describes, so that no image or record is read again."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from imgpipe.components.common.dataset import (
    MANIFEST_NAME,
    TEST,
    TRAIN,
    VALIDATION,
    Manifest,
    read_manifest_at,
    with_absolute_paths,
)
from imgpipe.components.common.errors import InvalidDataError, MissingInputError, OutputError
from imgpipe.components.common.log import log_event
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.output_folder import LABELS_NAME, WORK_FOLDER
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.convert.rows import Rows
from imgpipe.components.convert.split import draw_keys
from imgpipe.components.storage import FileStatus, Location

INPUTS = "inputs_sha256"
# TFRecord files by split.
_Files = Mapping[str, Mapping[Location, FileStatus]]


def digest_inputs(arguments: ConvertArguments, labels: tuple[str, ...], rows: Rows) -> str:
    """Returns a hash of everything that determines the data set, except the content of the images.

    It is stored in the manifest. Like the manifest, it does not depend on the order of the rows or the
    folders of their files and images.

    Args:
        arguments: The arguments of the conversion.
        labels: The labels of the user's labels file; empty = none.
        rows: The rows, with the size of every image file.
    """
    settings: tuple[object, ...] = (
        labels,
        arguments.seed,
        arguments.validation_fraction,
        arguments.test_fraction,
        arguments.shard_megabytes,
        arguments.max_image_pixels,
        arguments.max_image_bytes,
    )
    if arguments.multi_label:
        settings += ("multi_label",)
    if not arguments.group_near_duplicates:
        settings += ("near-duplicates apart",)
    if arguments.decisions:
        settings += (f"{rows.dropped} dropped",)
    rejected = sorted((row.path, row.label) for row in rows.rejected)
    digest = hashlib.sha256(repr((settings, rejected)).encode("utf-8", "surrogatepass"))
    for use in (UNASSIGNED, TRAIN, VALIDATION, TEST):
        numbers = rows.accepted.rows_for(use)
        keys = draw_keys(rows.accepted, numbers, f"inputs {use}")
        order = keys.argsort(kind="stable")
        digest.update(keys[order].tobytes())
        digest.update(rows.accepted.sizes(numbers[order]).tobytes())
        if names := rows.accepted.group_names:
            indices = rows.accepted.group_indices(numbers[order]).tolist()
            groups = [names[index] if index >= 0 else "" for index in indices]
            digest.update(repr(groups).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def read_finished_manifest(folder: Location) -> Manifest | None:
    """Returns the manifest of the finished conversion in a folder; None if there is none."""
    names = folder.contents()
    if MANIFEST_NAME not in names or any(name.startswith(f"{WORK_FOLDER}/") for name in names):
        return None
    try:
        manifest = read_manifest_at(folder)
    except InvalidDataError:
        return None
    # Shards outside the folder are checked by check_same_records.
    own = [shard for split in manifest.splits.values() for shard in split.shards if shard.path in names]
    return (
        manifest if LABELS_NAME in names and all(names[shard.path] == shard.bytes for shard in own) else None
    )


def check_same_rows(
    manifest: Manifest, folder: Location, arguments: ConvertArguments, rows: Rows, inputs: str
) -> None:
    """Checks that the data set in a folder was made from these rows.

    Raises:
        OutputError: if it was not, or an image has changed since.
    """
    made_by, names = manifest.made_by, folder.contents()
    if made_by.get(INPUTS) != inputs:
        raise _conflict_error(folder, "it was made from other rows or with other arguments")
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        if shard.path not in names:
            raise _conflict_error(folder, f"its shard {shard.path} is missing")
    if made_by["rejected"] > made_by["rows"] * arguments.max_rejected_fraction:
        raise _conflict_error(folder, "more of its rows were rejected than max_rejected_fraction now allows")
    written_ns = _written_ns(folder)
    for row in rows.accepted:
        if row.location.written_ns(row.version) > written_ns:
            raise _conflict_error(folder, f"{row.location} has changed since")


def check_same_records(
    manifest: Manifest, folder: Location, files: _Files, labels: Sequence[str], *, multi_label: bool
) -> None:
    """Checks that the manifest in a folder was made for these TFRecord files.

    Raises:
        OutputError: if it was not.
    """
    difference = "it describes other files"
    if manifest.made_by["source"].get("form") == "tfrecord":
        difference = _find_difference(
            manifest, files, labels, multi_label=multi_label, written_ns=_written_ns(folder)
        )
    if difference:
        raise _conflict_error(folder, difference)


def described_manifest(files: _Files, labels: Sequence[str], *, multi_label: bool) -> Manifest | None:
    """Returns the manifest that convert wrote beside these TFRecord files, with absolute paths.

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
    try:
        manifest = with_absolute_paths(read_manifest_at(folder), folder)
        written_ns = _written_ns(folder)
    except (InvalidDataError, MissingInputError, OutputError, OSError):
        # Another program's file of this name.
        return None
    splits = {name: split for name, split in manifest.splits.items() if name in files}
    manifest = dataclasses.replace(manifest, splits=splits)
    if _find_difference(manifest, files, labels, multi_label=multi_label, written_ns=written_ns):
        return None
    log_event(
        "convert_from_manifest",
        f"convert: {folder / MANIFEST_NAME!s} describes the files; they are not read again",
    )
    return manifest


def _find_difference(
    manifest: Manifest, files: _Files, labels: Sequence[str], *, multi_label: bool, written_ns: int
) -> str:
    """Returns why a manifest with absolute paths does not describe these files; empty if it does."""
    described = {
        name: [(shard.path, shard.bytes) for shard in split.shards] for name, split in manifest.splits.items()
    }
    found = {
        name: [(str(file.absolute()), status.size) for file, status in split_files.items()]
        for name, split_files in files.items()
    }
    if described != found:
        return "it describes other files"
    if manifest.multi_label != multi_label:
        return f"it was made with multi_label={str(manifest.multi_label).lower()}"
    for file, status in (item for split_files in files.values() for item in split_files.items()):
        if file.written_ns(status.version) > written_ns:
            return f"{file.absolute()} has changed since"
    return "it has other labels" if labels and tuple(labels) != manifest.labels else ""


def _written_ns(folder: Location) -> int:
    """Returns the latest time at which the manifest can have been written."""
    manifest = folder / MANIFEST_NAME
    status = manifest.status()
    if status is None:
        raise _conflict_error(folder, f"its {MANIFEST_NAME} is missing")
    return manifest.written_ns(status.version) + manifest.time_step_ns - 1


def _conflict_error(folder: Location, problem: str) -> OutputError:
    return OutputError(
        f"{folder!r} already contains a different finished data set: {problem}",
        remedy="choose a new folder; nothing is deleted or overwritten",
    )
