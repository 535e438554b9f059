"""Names the state of the data: equal for equal files, without reading them."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator

from imgpipe.components.common.log import log_result
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.storage import FileStatus, find_files, parse_location


def compute_data_version(arguments: DataVersionArguments) -> str:
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
            for line in _file_states(location) if location else ():
                digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
                files += 1
            digest.update(b"\0")
        version, why = f"sha256-{digest.hexdigest()}", f"of {files:,} files"
    log_result("data_version", f"{version[:23]}, {why}")
    return version


def _file_states(location: str) -> Iterator[str]:
    """Yields a line for each file, sorted: path, size, and what changes with the content."""
    folder = parse_location(location)
    files: Iterable[tuple[object, FileStatus | None]] = (
        folder.list_files() if folder.is_folder() else find_files(location).items()
    )
    yield from sorted(f"{file} {_file_state(status)}" for file, status in files)


def _file_state(status: FileStatus | None) -> str:
    if status is None:
        return "unreadable"
    # The checksum where the store keeps one: the same file uploaded again is the same data.
    return f"{status.size} {status.checksum if status.checksum >= 0 else status.version}"
