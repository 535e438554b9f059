"""Files and folders in the local file system and in object stores.

A path is parsed once, where it enters, and its scheme selects the store. A new store is a module with a
subclass of ``ObjectLocation`` and an entry in ``_STORES``.
"""

import re
from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage.cloud_storage import CloudStorageLocation
from imgpipe.components.storage.local import (
    LocalLocation,
    atomic_write,
    check_empty,
    check_writable,
    copy_folder,
    move_folder,
    publish_folder,
)
from imgpipe.components.storage.location import PARALLEL_DOWNLOADS, FileStatus, Location, is_hidden
from imgpipe.components.storage.object_store import ObjectLocation, is_file_name
from imgpipe.components.storage.publication import current_folder, read_unchanged
from imgpipe.components.storage.remote_requests import deadline
from imgpipe.components.storage.s3 import S3Location
from imgpipe.components.storage.volumes import (
    SCHEME,
    mount_of_bucket,
    mounted_path,
    split_volume_uri,
    uri_of_mounted,
)

__all__ = [
    "PARALLEL_DOWNLOADS",
    "FileStatus",
    "LocalLocation",
    "Location",
    "ObjectLocation",
    "atomic_write",
    "check_empty",
    "check_writable",
    "copy_folder",
    "current_folder",
    "deadline",
    "find_files",
    "is_file_name",
    "is_hidden",
    "is_local",
    "local_path",
    "mount_of_bucket",
    "move_folder",
    "parse_location",
    "publish_folder",
    "read_unchanged",
    "resolve",
    "split_volume_uri",
    "uri_of_mounted",
]

_STORES: dict[str, type[ObjectLocation]] = {
    store.scheme: store for store in (CloudStorageLocation, S3Location)
}

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def parse_location(path: str | Path) -> Location:
    """Returns the location of a user's path: a local path, with ``~`` expanded, or the URI of a store.

    Raises:
        InvalidArgumentError: for a URI without a bucket, or with an unsupported scheme.
    """
    return _parse_uri(str(path)) or LocalLocation(str(Path(path).expanduser()))


def resolve(folder: Location, path: str) -> Location:
    """Returns the location of a path that is relative to ``folder``, absolute, or a URI.

    Raises:
        InvalidArgumentError: for a URI without a bucket, or with an unsupported scheme.
    """
    return _parse_uri(path) or folder / path


def _parse_uri(text: str) -> Location | None:
    # Called for every row of a list; most are plain paths.
    scheme = _URI.match(text) if "://" in text else None
    if scheme is None:
        return None
    if scheme[1] == SCHEME:
        return LocalLocation(mounted_path(text))
    store = _STORES.get(scheme[1])
    if store is None:
        schemes = [f"{name}://" for name in _STORES]
        raise InvalidArgumentError(
            f"{text!r}: {scheme[0]} is not supported; local paths, {' and '.join(schemes)} are",
            remedy=f"write s3:{text.partition(':')[2]}"
            if scheme[1].lower() in ("s3a", "s3n")
            else f"copy the data to a local folder, {' or '.join(schemes)}, and use that path",
        )
    return store.parse(text)


def is_local(text: str) -> bool:
    """Whether a path is local, that is, not a URI."""
    return _URI.match(text) is None


def local_path(text: str) -> Path:
    """Returns the local path of a user's path, with ``~`` expanded.

    Raises:
        InvalidArgumentError: for a URI.
    """
    scheme = _URI.match(text)
    if scheme:
        raise InvalidArgumentError(
            f"{text!r} must be a local path, not {scheme[0]}",
            remedy="copy the data to a local folder and use that path",
        )
    return Path(text).expanduser()


def find_files(patterns: str) -> dict[Location, FileStatus]:
    """Returns the files that match patterns and their status, sorted by name.

    Args:
        patterns: A path, a pattern as in ``Location.glob``, or several separated by commas, unless a local
            file has the whole name.

    Raises:
        InvalidArgumentError: for a URI without a bucket, or with an unsupported scheme.
        MissingInputError: if a pattern matches no file, with the files found instead.
        InterruptedRunError: if a remote store cannot be reached.
    """
    if is_local(patterns) and local_path(patterns).is_file():
        parts = [patterns]
    else:
        parts = [part.strip() for part in patterns.split(",")]
    found: dict[Location, FileStatus] = {}
    for part in parts:
        pattern = parse_location(part)
        matches = dict(pattern.glob())
        if not matches:
            raise pattern.no_match_error()
        found.update(matches)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))
