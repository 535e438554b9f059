"""The local file system."""

import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from imgpipe.components.common.errors import MissingInputError, OutputError, must_be_writable
from imgpipe.components.common.plural import plural
from imgpipe.components.storage.location import (
    WILDCARD,
    FileStatus,
    Location,
    Observer,
    describe_folder,
    ignore_content,
    is_hidden,
)
from imgpipe.components.storage.publication import hidden_folder, remove_left_overs, replace_files

# A mounted bucket (gcsfuse returns EMFILE) and some other file systems rename files, but not folders.
_CANNOT_RENAME_FOLDERS = frozenset({errno.EMFILE, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS})
# Of renameat2: Python has no function for it.
_WORKING_FOLDER, _RENAME_EXCHANGE = -100, 2
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class LocalLocation(Location):
    """A local path; relative paths stay relative."""

    # Not a Path: a location is created for every row of a list, and a string takes a tenth of the time.
    text: str
    is_local: ClassVar[bool] = True

    def __str__(self) -> str:
        return self.text

    @property
    def path(self) -> Path:
        """The location as a ``Path``."""
        return Path(self.text)

    @property
    def name(self) -> str:
        return os.path.basename(self.text)

    @property
    def parent(self) -> "LocalLocation":
        """The folder that contains this file or folder; empty for the working directory."""
        return LocalLocation(os.path.dirname(self.text))

    def __truediv__(self, name: str) -> "LocalLocation":
        return LocalLocation(os.path.join(self.text, name))

    def absolute(self) -> "LocalLocation":
        return LocalLocation(str(self.path.absolute()))

    def resolve_links(self) -> "LocalLocation":
        return LocalLocation(os.path.realpath(self.text))

    def status(self) -> FileStatus | None:
        try:
            found = os.stat(self.text)
        except FileNotFoundError:
            return None
        except ValueError as error:
            # A NUL character in the path.
            raise OSError(errno.EINVAL, str(error), self.text) from None
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", self.text)
        return FileStatus(found.st_size, found.st_mtime_ns)

    def read(self) -> bytes:
        descriptor = self._open()
        try:
            size = os.fstat(descriptor).st_size
            parts = [os.read(descriptor, size + 1)]
            if len(parts[0]) != size:
                # Another process is changing it, or it is not a regular file.
                while part := os.read(descriptor, 2**20):
                    parts.append(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(descriptor)

    def read_range(self, begin: int, length: int) -> bytes:
        descriptor = self._open()
        try:
            os.lseek(descriptor, begin, os.SEEK_SET)
            parts = [os.read(descriptor, length)]
            while parts[-1] and (missing := length - sum(map(len, parts))) > 0:
                parts.append(os.read(descriptor, missing))
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        # os.read takes two thirds of the time of open().read(), which counts where every file is small.
        return os.open(self.text, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        yield self.path

    def link_or_download(self, path: Path, observe: Observer = ignore_content) -> None:
        path.symlink_to(self.path.absolute())
        if observe is not ignore_content:
            with path.open("rb") as file:
                while content := file.read(_READ_BYTES):
                    observe(content)

    def write(self, content: bytes) -> None:
        with atomic_write(self.path) as temporary:
            temporary.write_bytes(content)

    def upload(self, path: Path) -> None:
        with atomic_write(self.path) as temporary:
            shutil.copyfile(path, temporary)

    def move_from(self, path: Path) -> None:
        """Moves a file of the same file system here."""
        os.replace(path, self.text)

    def rename(self, target: Location) -> None:
        os.makedirs(os.path.dirname(str(target)) or ".", exist_ok=True)
        os.replace(self.text, str(target))

    def copy_to(self, target: Location) -> None:
        target.upload(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def is_folder(self) -> bool:
        return os.path.isdir(self.text)

    def list_files(self, *, skip_hidden: bool = False) -> Iterator[tuple[str, FileStatus | None]]:
        """Yields relative path and status of all files below the folder, sorted folder by folder.

        Raises:
            OSError: if a folder cannot be read: its files would be missing silently.
        """
        seen = set()
        for current, folders, files in os.walk(self.text or ".", onerror=_raise, followlinks=True):
            status = os.stat(current)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                # A link to a folder above: following it would never end.
                folders.clear()
                continue
            seen.add(identity)
            folders[:] = sorted(name for name in folders if not (skip_hidden and is_hidden(name)))
            below = os.path.relpath(current, self.text or ".")
            for name in sorted(files):
                if not (skip_hidden and is_hidden(name)):
                    relative = name if below == os.curdir else f"{below}/{name}"
                    try:
                        yield relative, (self / relative).status()
                    except OSError:
                        yield relative, None

    def contents(self) -> dict[str, int]:
        """Returns the sizes of all files below the folder by relative path; empty subfolders as ``name/``.

        Raises:
            OutputError: if the path is not a folder.
        """
        root = self.path
        if not root.is_dir():
            if root.exists():
                raise OutputError(
                    f"{self!r} exists and is not a folder",
                    remedy="use a new folder: existing files are never deleted or overwritten",
                )
            return {}
        found = {}
        for current, folders, files in os.walk(root):
            for name in files:
                file = Path(current, name)
                # Another process may remove it meanwhile.
                with suppress(FileNotFoundError):
                    found[file.relative_to(root).as_posix()] = file.lstat().st_size
            if not folders and not files and current != str(root):
                # An empty folder may be the user's own, too.
                found[Path(current).relative_to(root).as_posix() + "/"] = 0
        return found

    def children(self, limit: int | None = None) -> list[str]:
        with os.scandir(self.text or ".") as entries:
            return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)[:limit]

    def download_folder(self, path: Path, *, ignore: re.Pattern[str] | None = None) -> None:
        copy_folder(self.path, path, ignore=ignore)

    def publish_folder(
        self, source: Path, *, keep: re.Pattern[str] | None = None, first: str = "", last: str = ""
    ) -> None:
        publish_folder(source, self.path, keep=keep, first=first, last=last)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        self.path.mkdir(parents=True, exist_ok=True)
        yield self.path

    def remove_folder(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_empty_folder(self) -> None:
        with suppress(OSError):
            self.path.rmdir()

    def check_writable(self) -> None:
        check_writable(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Creates and locks the folder; does nothing on network file systems without locks on folders.

        Raises:
            OutputError: if another process holds the lock, or the folder cannot be created.
        """
        with must_be_writable(f"to {self!r}"):
            if not self.path.is_dir():
                self.contents()
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another process is writing to {self!r}", remedy="wait for it, or use another folder"
                ) from None
            except OSError:
                pass
            yield
        finally:
            # Also releases the lock.
            os.close(descriptor)

    def glob(self) -> Iterator[tuple["LocalLocation", FileStatus]]:
        if os.path.isfile(self.text):
            yield self, FileStatus((found := os.stat(self.text)).st_size, found.st_mtime_ns)
            return
        parts = self.path.parts
        wild = next((index for index, part in enumerate(parts) if WILDCARD.search(part)), len(parts))
        paths = Path(*parts[:wild]).glob(str(Path(*parts[wild:]))) if wild < len(parts) else [self.path]
        hidden_matches = any(map(is_hidden, parts[wild:]))
        for path in paths:
            # As in a shell, a wildcard does not match a hidden file: a partial shard is not a shard.
            if not hidden_matches and any(map(is_hidden, path.parts[wild:])):
                continue
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                # A link whose target is missing.
                continue
            if stat.S_ISREG(found.st_mode):
                yield LocalLocation(str(path)), FileStatus(found.st_size, found.st_mtime_ns)

    def no_match_error(self) -> MissingInputError:
        if self.path.is_dir():
            return MissingInputError(
                f"{self!r} is a folder, not a file or a pattern of files",
                where=describe_folder(self),
                remedy=f"use a pattern of the files in it, e.g. {self / 'train-*'}",
            )
        if not self.has_wildcard:
            return MissingInputError(
                f"{self!r} does not exist", where=_describe_nearest(self.path), remedy="correct the path"
            )
        matching = [path for path in glob.glob(self.text) if os.path.isdir(path)]
        return MissingInputError(
            f"{self!r} matches {plural(len(matching), 'folder')}, but no file"
            if matching
            else f"{self!r} matches no file",
            where=_describe_nearest(self.path),
            remedy=f"for the files in them, write {str(self / '*')!r}"
            if matching
            else "correct the pattern; wildcards are *, ?, [1-9], and **/ for any folders",
        )


def _raise(error: OSError) -> NoReturn:
    raise error


def _describe_nearest(path: Path) -> str:
    """Returns what the deepest existing folder above a path contains."""
    folder = path.parent
    while not folder.is_dir():
        missing, folder = folder, folder.parent
        if folder.is_dir() and WILDCARD.search(missing.name):
            matching = sorted(match for match in folder.glob(missing.name) if match.is_dir())
            if matching:
                count = f"{len(matching)} folders match {str(missing)!r}"
                return f"{count}; {describe_folder(LocalLocation(str(matching[0])))}"
        if folder.is_dir():
            return f"{str(folder)!r} has no folder {missing.name!r}"
    return describe_folder(LocalLocation(str(folder)))


def check_writable(folder: Path) -> None:
    """Creates the folder if it is missing and checks that files can be written to it, by writing one.

    Raises:
        OutputError: if not, with the reason.
    """
    probe = folder / f".imgpipe-write-test-{uuid.uuid4().hex}"
    with must_be_writable(f"to {str(folder)!r}"):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


def check_empty(folder: Path) -> None:
    """Rejects a folder that is not empty: only the run's own files are ever overwritten.

    Raises:
        OutputError: if ``folder`` is a file, or a folder that is not empty.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise OutputError(
            f"{str(folder)!r} exists and is not an empty folder",
            remedy="use a new or empty folder: existing files are never deleted or overwritten",
        )


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which is renamed to ``path`` if the block succeeds.

    At any moment, ``path`` is missing, the old file or the complete new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def copy_folder(source: Path, target: Path, *, ignore: re.Pattern[str] | None = None) -> None:
    """Copies a folder's files, without the children that match ``ignore``.

    Times and permissions are not copied: on a mounted bucket, they belong to the user who mounted it.
    """
    target.mkdir(parents=True, exist_ok=True)
    for child in sorted(source.iterdir()):
        if ignore and ignore.fullmatch(child.name):
            continue
        if child.is_dir():
            copy_folder(child, target / child.name)
        else:
            shutil.copyfile(child, target / child.name)


def move_folder(source: Path, target: Path, *, last: str) -> None:
    """Renames a folder, or moves its files one by one where the file system does not rename folders.

    Args:
        source: The folder.
        target: The new name.
        last: The file that is moved last: readers take a folder that has it as complete.

    Raises:
        FileExistsError: if there is a folder with that name, even an empty one where folders are not renamed.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME_FOLDERS:
            raise
        # Reserves the name.
        target.mkdir()
        replace_files(LocalLocation(str(source)), LocalLocation(str(target)), last=last)
        _remove(source)


def publish_folder(
    source: Path, target: Path, *, keep: re.Pattern[str] | None = None, first: str = "", last: str = ""
) -> None:
    """Replaces a folder with a copy of another, in one step.

    The copy is complete before it is exchanged with the target. Where the file system does not rename or
    exchange folders, the files are replaced one by one, as in an object store.

    Args:
        source: The folder to copy.
        target: The folder to replace or create.
        keep: Keeps the subfolders of the existing target that match.
        first: The file that is written first, if files are replaced.
        last: The file that is removed first and written last, if files are replaced.

    Raises:
        OutputError: if the target cannot be written.
    """
    place = LocalLocation(str(target))
    incoming = LocalLocation(str(hidden_folder(place)))
    try:
        with must_be_writable(repr(str(target)), "use another folder"):
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_left_overs(place)
            copy_folder(source, incoming.path)
            try:
                _exchange_or_create(incoming.path, target, keep)
            except OSError as error:
                if error.errno not in _CANNOT_RENAME_FOLDERS:
                    raise
                replace_files(incoming, place, keep=keep, first=first, last=last)
    finally:
        # The old folder, or what an error has left.
        with suppress(OSError):
            remove_left_overs(place)


def _exchange_or_create(incoming: Path, target: Path, keep: re.Pattern[str] | None) -> None:
    """Renames ``incoming`` to ``target``; a target with files is renamed to ``incoming``."""
    try:
        os.rename(incoming, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    for child in target.iterdir():
        if keep and keep.fullmatch(child.name) and child.is_dir():
            shutil.copytree(child, incoming / child.name, copy_function=_link_or_copy)
    exchange(incoming, target)


def exchange(one: Path, other: Path) -> None:
    """Exchanges the names of two folders in one step.

    Raises:
        OSError: ENOTSUP if the operating system or the file system does not exchange names.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    result = library.renameat2(
        _WORKING_FOLDER, os.fsencode(one), _WORKING_FOLDER, os.fsencode(other), _RENAME_EXCHANGE
    )
    if result != 0:
        code = ctypes.get_errno()
        # EINVAL: the file system does not know the flag.
        code = errno.ENOTSUP if code == errno.EINVAL else code
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def _link_or_copy(source: str, target: str) -> None:
    """Creates a hard link, if the file system supports it, so that no data is copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
