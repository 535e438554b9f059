"""Computes a version of the input data from its file names, sizes and times, without reading the files."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator

from imgpipe.components.common.dataset import read_manifest_at
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.log import log_result
from imgpipe.components.common.plural import plural
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.storage import FileStatus, Location, find_files, is_local, parse_location


def compute_data_version(arguments: DataVersionArguments) -> str:
    """Returns the version of the input data.

    This is ``data_version`` if the user set it, else a digest of all files' names, sizes and modification
    times (in buckets: checksums). If the files are not known without reading them (CSV and JSONL lists)
    or the converted data is written outside the run (output_dir), it is a unique text; so it is if output_dir
    does not have the whole data set that the cache would return.

    Raises:
        MissingInputError: if a pattern matches no file.
        InterruptedRunError: if a remote store cannot be reached.
    """
    if arguments.data_version and not _cache_is_usable(arguments.output_dir):
        version, source = (
            f"{arguments.data_version}-{uuid.uuid4().hex}",
            "not cached: output_dir has no complete data set",
        )
    elif arguments.data_version:
        version, source = arguments.data_version, "set by data_version"
    elif arguments.output_dir or not (arguments.images or arguments.training_data_path):
        version, source = (
            f"once-{uuid.uuid4().hex}",
            "not cached: set data_version to cache convert and validate",
        )
    else:
        digest, files = hashlib.sha256(), 0
        for location in (
            arguments.images,
            arguments.training_data_path,
            arguments.validation_data_path,
            arguments.test_data_path,
            arguments.labels_file,
            arguments.decisions,
        ):
            for line in _file_states(location) if location else ():
                digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
                files += 1
            digest.update(b"\0")
        version = f"sha256-{digest.hexdigest()}"
        source = f"computed from {plural(files, 'file')}"
    log_result("data_version", f"{version[:23]}, {source}")
    return version


def _cache_is_usable(output_dir: str) -> bool:
    """Whether the files exist to which a cached data set would refer: all shards of output_dir's manifest."""
    if not output_dir:
        return True
    folder = parse_location(output_dir)
    try:
        manifest = read_manifest_at(folder)
        files = folder.contents()
    except (MissingInputError, InvalidDataError):
        return False
    paths = [shard.path for split in manifest.splits.values() for shard in split.shards]
    # An absolute path is a TFRecord file of the user's, which is read in place.
    return all(path in files for path in paths if is_local(path) and not path.startswith("/"))


def _file_states(location: str) -> Iterator[str]:
    """Yields a sorted line for each file: path, size, and checksum or version."""
    folder = parse_location(location)
    files: Iterable[tuple[Location, FileStatus | None]] = (
        ((folder / name, status) for name, status in folder.list_files())
        if folder.is_folder()
        else find_files(location).items()
    )
    yield from sorted(f"{file} {_file_state(status)}" for file, status in files)


def _file_state(status: FileStatus | None) -> str:
    if status is None:
        return "unreadable"
    # The checksum if the store keeps one: uploading the same file again does not change the data.
    return f"{status.size} {status.checksum if status.checksum >= 0 else status.version}"
