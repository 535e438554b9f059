"""Names the state of the data: equal for equal files, without reading them."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from imgpipe.components.common.log import log_result
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import local_path, match_pattern


def version_of_data(arguments: DataVersionArguments) -> str:
    """Returns a name for the state of the data.

    Args:
        arguments: Where the data lies.

    Returns:
        ``data_version``, if the user gave it; else a digest of all files' names, sizes, and times of change
        (in Cloud Storage: checksums); else, where the files cannot be told without reading (lists that name
        them) or where the converted data lies outside the run (output_dir), a name that never comes again.

    Raises:
        MissingInputError: if a pattern matches no file.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if arguments.data_version:
        version, why = arguments.data_version, "as given"
    elif arguments.output_dir or not (arguments.images or arguments.training_data_path):
        version, why = f"once-{uuid.uuid4().hex}", "not cached: give data_version to cache it"
    else:
        digest, files = hashlib.sha256(), 0
        for location in (
            arguments.images,
            arguments.training_data_path,
            arguments.validation_data_path,
            arguments.labels_file,
        ):
            for line in _states(location) if location else ():
                digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
                files += 1
            digest.update(b"\0")
        version, why = f"sha256-{digest.hexdigest()}", f"of {files:,} files"
    log_result("data_version", f"{version[:23]}, {why}")
    return version


def _states(location: str) -> Iterator[str]:
    """Yields a line a file, sorted: name, size, and what changes when the content does."""
    if is_cloud_path(location):
        for part in map(str.strip, location.split(",")):
            matched = cloud_storage.match_objects(part)
            found = matched or cloud_storage.list_objects(f"{part.rstrip('/')}/")
            # The checksum, not the generation: the same file uploaded again is the same data.
            yield from sorted(f"{one.name} {one.size} {one.checksum}" for one in found)
        return
    folder = local_path(location)
    files = _walked(folder) if folder.is_dir() else (Path(path) for path in match_pattern(location))
    yield from sorted(f"{file} {(state := file.stat()).st_size} {state.st_mtime_ns}" for file in files)


def _walked(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield Path(root) / name
