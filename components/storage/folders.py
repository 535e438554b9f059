"""A folder to write a data set to, local or in Cloud Storage: the same few operations on both."""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgpipe.components.common.errors import MissingInputError, OutputError
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import check_writable, local_path, written_whole


class Folder(Protocol):
    """Files by name; a name may hold ``/``. Whatever is written is there whole or not at all."""

    @property
    def location(self) -> str:
        """The folder's path, as a person writes it."""

    def names(self) -> dict[str, int]:
        """Returns the names and sizes in bytes of the files, those of subfolders with the subfolder."""

    def read(self, name: str) -> bytes:
        """Returns a file's content."""

    def status(self, name: str) -> tuple[int, int]:
        """Returns a file's size in bytes and when it was written, in nanoseconds since 1970."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file."""

    def take(self, path: Path, name: str) -> None:
        """Moves a local file into the folder."""

    def move(self, name: str, new_name: str) -> None:
        """Gives a file another name in the folder."""

    def remove(self, name: str) -> None:
        """Removes a file, if it is there, and the subfolder that it leaves empty."""

    def scratch(self, subfolder: str) -> Path | None:
        """Returns a local folder from which ``take`` is only a renaming; None if there is none."""

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes that ask for the same out, where the storage has locks."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder of this machine; it is made when something is written."""

    path: Path

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self.path)

    def names(self) -> dict[str, int]:
        """Returns the names and sizes in bytes of the files, those of subfolders with the subfolder.

        Raises:
            OutputError: if there is a file in the folder's place.
        """
        if not self.path.is_dir():
            if self.path.exists():
                raise OutputError(
                    f"{str(self.path)!r} exists already and is not a folder",
                    remedy="name a new folder; nothing is deleted or overwritten",
                )
            return {}
        found = {}
        for current, folders, files in os.walk(self.path):
            for name in files:
                file = Path(current, name)
                found[file.relative_to(self.path).as_posix()] = file.lstat().st_size
            if not folders and not files and current != str(self.path):
                # An empty subfolder is somebody's, too.
                found[Path(current).relative_to(self.path).as_posix() + "/"] = 0
        return found

    def read(self, name: str) -> bytes:
        """Returns a file's content."""
        return (self.path / name).read_bytes()

    def status(self, name: str) -> tuple[int, int]:
        """Returns a file's size in bytes and when it was written, in nanoseconds since 1970."""
        found = (self.path / name).stat()
        return found.st_size, found.st_mtime_ns

    def write(self, name: str, content: bytes) -> None:
        """Writes a file."""
        with written_whole(self.path / name) as temporary:
            temporary.write_bytes(content)

    def take(self, path: Path, name: str) -> None:
        """Moves a file of the same file system into the folder."""
        os.replace(path, self.path / name)

    def move(self, name: str, new_name: str) -> None:
        """Gives a file another name in the folder."""
        (self.path / new_name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path / name, self.path / new_name)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there, and the subfolder that it leaves empty."""
        path = self.path / name
        if name.endswith("/"):
            path.rmdir()
            return
        path.unlink(missing_ok=True)
        if path.parent != self.path and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()

    def scratch(self, subfolder: str) -> Path | None:
        """Returns the subfolder, made if it is missing."""
        (self.path / subfolder).mkdir(parents=True, exist_ok=True)
        return self.path / subfolder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes that ask for the same out; the folder is made if it is missing.

        Some network file systems have no locks on folders: there it does nothing.

        Raises:
            OutputError: if another process has it, or the folder cannot be made.
        """
        try:
            if not self.path.is_dir():
                self.names()
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.location!r}: {error.strerror}",
                remedy="name a folder that can be written",
            ) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another process is writing to {self.location!r}",
                    remedy="wait for it, or name another folder",
                ) from None
            except OSError:
                pass
            yield
        finally:
            # Which lets go of the lock, as the end of the process would.
            os.close(descriptor)


@dataclass(frozen=True)
class CloudFolder:
    """A prefix of a bucket.

    Attributes:
        location: ``gs://bucket/prefix``, without a ``/`` at the end.
    """

    location: str

    def names(self) -> dict[str, int]:
        """Returns the names and sizes in bytes of the objects below the prefix."""
        _, prefix = cloud_storage.bucket_and_name(self.location + "/")
        return {
            found.name.removeprefix(prefix): found.size
            for found in cloud_storage.list_objects(self.location + "/")
            # Some tools make an empty object to stand for the folder.
            if found.name != prefix
        }

    def read(self, name: str) -> bytes:
        """Returns an object's content."""
        return cloud_storage.read_object(f"{self.location}/{name}")

    def status(self, name: str) -> tuple[int, int]:
        """Returns an object's size in bytes and when it was written, in nanoseconds since 1970.

        Raises:
            MissingInputError: if there is none.
        """
        found = cloud_storage.object_at(f"{self.location}/{name}")
        if found is None:
            raise MissingInputError(f"there is no object {self.location}/{name!r}", remedy="check the path")
        return found.size, cloud_storage.nanoseconds(found.generation)

    def write(self, name: str, content: bytes) -> None:
        """Writes an object."""
        cloud_storage.write_object(f"{self.location}/{name}", content)

    def take(self, path: Path, name: str) -> None:
        """Uploads a local file and removes it."""
        cloud_storage.upload(path, f"{self.location}/{name}")
        path.unlink()

    def move(self, name: str, new_name: str) -> None:
        """Gives an object another name: the service copies it, then the old one is deleted."""
        cloud_storage.move_object(f"{self.location}/{name}", f"{self.location}/{new_name}")

    def remove(self, name: str) -> None:
        """Deletes an object, if it is there."""
        cloud_storage.delete_object(f"{self.location}/{name}")

    def scratch(self, subfolder: str) -> Path | None:  # noqa: ARG002 - the protocol's
        """Returns None: files are made elsewhere and uploaded."""
        return None

    def locked(self) -> AbstractContextManager[None]:
        """Does nothing: a bucket has no locks."""
        return nullcontext()


def check_folder_writable(location: str) -> None:
    """Proves that a file can be written to a folder, local or ``gs://``, before work that would be lost.

    Raises:
        OutputError: if it cannot.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not is_cloud_path(location):
        check_writable(local_path(location))
        return
    name = f".imgpipe-write-test-{uuid.uuid4().hex}"
    folder = folder_at(location)
    folder.write(name, b"")
    folder.remove(name)


def folder_at(location: str) -> Folder:
    """Returns the folder that a user named: ``gs://bucket/prefix`` or a local path.

    Raises:
        InvalidArgumentError: for another URL, or a ``gs://`` without a bucket.
    """
    if is_cloud_path(location):
        cloud_storage.bucket_and_name(location)
        return CloudFolder(location.rstrip("/"))
    return LocalFolder(local_path(location))
