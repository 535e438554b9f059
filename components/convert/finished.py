"""Recognizes a conversion that has already finished, so that repeating it reads no image again."""

import hashlib
from collections.abc import Mapping

from imgpipe.components.common.dataset import MANIFEST_NAME, TEST, TRAIN, VALIDATION, Manifest, parse_manifest
from imgpipe.components.common.errors import InvalidDataError, OutputError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.output_folder import LABELS_NAME, WORK_FOLDER
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.convert.rows import Rows
from imgpipe.components.convert.split import draw_keys
from imgpipe.components.storage import Location, find_files

INPUTS = "inputs_sha256"


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
        manifest = parse_manifest((folder / MANIFEST_NAME).read(), where=str(folder / MANIFEST_NAME))
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
    manifest: Manifest,
    folder: Location,
    patterns: Mapping[str, str],
    labels: tuple[str, ...],
    *,
    multi_label: bool = False,
) -> None:
    """Checks that the manifest in a folder describes the TFRecord files that the patterns match.

    Raises:
        OutputError: if it does not.
        MissingInputError: if a pattern matches no file.
    """
    described = {
        name: [(shard.path, shard.bytes) for shard in split.shards] for name, split in manifest.splits.items()
    }
    files = {name: find_files(pattern) for name, pattern in patterns.items()}
    found = {
        name: [(str(file.absolute()), status.size) for file, status in split_files.items()]
        for name, split_files in files.items()
    }
    if manifest.made_by["source"].get("form") != "tfrecord" or described != found:
        raise _conflict_error(folder, "it describes other files")
    if manifest.multi_label != multi_label:
        raise _conflict_error(folder, f"it was made with multi_label={str(manifest.multi_label).lower()}")
    written_ns = _written_ns(folder)
    for file, status in (item for split_files in files.values() for item in split_files.items()):
        if file.written_ns(status.version) > written_ns:
            raise _conflict_error(folder, f"{file.absolute()} has changed since")
    if labels and labels != manifest.labels:
        raise _conflict_error(folder, "it has other labels")


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
