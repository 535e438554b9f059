"""Files and folders: finding what a pattern means, and writing so that nothing half-written shows."""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import is_cloud_path

URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def local_path(text: str) -> Path:
    """Returns the path that a user wrote, with ``~`` expanded.

    Raises:
        InvalidArgumentError: for a URL, ``gs://...`` too: not every place takes one.
    """
    scheme = URL.match(text)
    if scheme:
        raise InvalidArgumentError(
            f"{text!r}: a local path is needed here, not {scheme.group(0)}",
            remedy="copy the data to a local folder and name that",
        )
    return Path(text).expanduser()


def absolute_location(text: str) -> str:
    """Returns a path that a user wrote as a ``gs://`` path or an absolute local one.

    Raises:
        InvalidArgumentError: for any other URL.
    """
    if is_cloud_path(text):
        return text
    scheme = URL.match(text)
    if scheme:
        raise InvalidArgumentError(
            f"{text!r}: local paths and gs:// are understood, not {scheme.group(0)}",
            remedy="copy the data to a local folder or a bucket of Cloud Storage and name that",
        )
    return str(Path(text).expanduser().absolute())


def joined(folder: str, path: str) -> str:
    """Returns ``path`` seen from ``folder``; an absolute path and a URL stay what they are."""
    if is_cloud_path(path):
        return path
    if is_cloud_path(folder):
        return f"{folder.rstrip('/')}/{path}"
    return os.path.join(folder, path)


def folder_of(location: str) -> str:
    """Returns the folder in which a file lies."""
    return location.rpartition("/")[0] if is_cloud_path(location) else os.path.dirname(location)


def read_file(location: str) -> bytes:
    """Returns the content of a local file or an object of Cloud Storage.

    Raises:
        OSError: if a local file cannot be read.
        MissingInputError: if an object cannot be read.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if is_cloud_path(location):
        return cloud_storage.read_object(location)
    descriptor = _opened(location)
    try:
        size = os.fstat(descriptor).st_size
        parts = [os.read(descriptor, size + 1)]
        if len(parts[0]) != size:
            # It changes under our hands, or is no regular file.
            while part := os.read(descriptor, 2**20):
                parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def read_part(location: str, begin: int, length: int) -> bytes:
    """Returns a part of a local file or an object of Cloud Storage, which may be shorter at its end.

    Raises:
        OSError: if a local file cannot be read.
        MissingInputError: if an object cannot be read.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if is_cloud_path(location):
        return cloud_storage.read_range(location, begin, length)
    descriptor = _opened(location)
    try:
        os.lseek(descriptor, begin, os.SEEK_SET)
        parts = [os.read(descriptor, length)]
        while parts[-1] and (missing := length - sum(map(len, parts))) > 0:
            parts.append(os.read(descriptor, missing))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _opened(location: str) -> int:
    # With os.read two thirds of the time of open().read(), which counts where each file is small.
    return os.open(location, os.O_RDONLY | getattr(os, "O_BINARY", 0))


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """Yields a local file with the content: the file itself, or a copy of an object, removed afterwards.

    Raises:
        MissingInputError: if an object cannot be read.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not is_cloud_path(location):
        yield local_path(location)
        return
    with tempfile.TemporaryDirectory(prefix="imgpipe-") as folder:
        copy = Path(folder) / "copy"
        cloud_storage.download(location, copy)
        yield copy


def match_pattern(pattern: str) -> list[str]:
    """Returns the files that a path or glob means, sorted by name, local and ``gs://`` alike.

    The dialect is the original algorithm's: ``*`` (within a folder), ``?``, ``[1-9]``. Several
    patterns may be given, separated by commas, unless a file of the whole name exists.

    Raises:
        InvalidArgumentError: for a URL other than ``gs://``.
        MissingInputError: if a pattern matches no file; the message says what lies there instead.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not URL.match(pattern) and local_path(pattern).is_file():
        return [str(local_path(pattern))]
    found: set[str] = set()
    for part in map(str.strip, pattern.split(",")):
        if is_cloud_path(part):
            bucket, _ = cloud_storage.bucket_and_name(part)
            matches = [f"gs://{bucket}/{match.name}" for match in cloud_storage.match_objects(part)]
        else:
            absolute_location(part)
            matches = [str(file) for file in _glob(local_path(part)) if file.is_file()]
        if not matches and not is_cloud_path(part) and local_path(part).is_dir():
            raise MissingInputError(
                f"{part!r} is a folder, not a file or a pattern of files",
                where=_what_lies_at(local_path(part) / "*"),
                remedy=f"write a pattern of the files in it, e.g. {os.path.join(part, 'train-*')}",
            )
        if not matches:
            raise MissingInputError(
                f"{part!r} matches no file",
                where=_what_objects_lie_at(part) if is_cloud_path(part) else _what_lies_at(local_path(part)),
                remedy="correct the pattern (*, ? and [1-9] are understood)",
            )
        found.update(matches)
    return sorted(found)


def check_writable(folder: Path) -> None:
    """Makes the folder if it is missing and proves that a file can be written there.

    Raises:
        OutputError: if it cannot, with the system's reason.
    """
    probe = folder / f".imgpipe-write-test-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write to {str(folder)!r}: {error.strerror}", remedy="name a folder that you may write to"
        ) from None


def check_empty(folder: Path) -> None:
    """Refuses a folder that holds anything: nothing that the run did not make is ever overwritten.

    Raises:
        OutputError: if ``folder`` is a file, or a folder with something in it.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise OutputError(
            f"{str(folder)!r} exists already and is not an empty folder",
            remedy="name a new folder; nothing is deleted or overwritten",
        )


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; when the block ends well, it is renamed to ``path``.

    Whatever happens, ``path`` is either absent (or its old self) or complete. A file that is
    replaced is replaced in one step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def publish_folder(source: Path, target: Path, *, kept: re.Pattern[str] | None = None) -> None:
    """Copies a folder to ``target`` by write-then-swap.

    The copy is complete before it takes the target's name. A folder that stood there before is
    moved aside first and removed last: at any moment either the old or the new one is there whole,
    under its name or, for the instant between two renames, under a name that begins with a dot.

    Args:
        source: To be copied.
        target: Where to.
        kept: What of the old folder's content stays in the new one: names that match wholly.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    incoming = target.parent / f".{target.name}.{mark}.partial"
    outgoing = target.parent / f".{target.name}.{mark}.old"
    try:
        shutil.copytree(source, incoming)
        for child in target.iterdir() if target.is_dir() else ():
            if kept and kept.fullmatch(child.name) and child.is_dir():
                shutil.copytree(child, incoming / child.name, copy_function=_linked_or_copied)
        if target.exists():
            os.replace(target, outgoing)
        os.replace(incoming, target)
    except BaseException as error:
        # Also when the run is told to stop between the two renames.
        if outgoing.exists() and not target.exists():
            os.replace(outgoing, target)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"cannot write {str(target)!r}: {error.strerror or error}",
            remedy="free some space or name another folder",
        ) from None
    finally:
        _remove(incoming)
    _remove(outgoing)


def _linked_or_copied(source: str, target: str) -> None:
    """Gives a file a second name, where the file system can; no byte is copied then."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _glob(path: Path) -> Iterator[Path]:
    parts = path.parts
    wild = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if wild is None:
        return iter([path] if path.exists() else [])
    # As in a shell, a wildcard does not mean a hidden file: a partial shard is no shard.
    return (
        match
        for match in Path(*parts[:wild]).glob(str(Path(*parts[wild:])))
        if not match.name.startswith(".") or path.name.startswith(".")
    )


def _what_objects_lie_at(pattern: str) -> str:
    folder = folder_of(re.split(r"[*?\[]", pattern)[0]) + "/"
    names = cloud_storage.names_below(folder, 11)
    if not names:
        return f"{folder!r} is empty"
    return f"{folder!r} holds: {', '.join(names[:10])}{' and more' if len(names) > 10 else ''}"


def _what_matching_folders_hold(folder: Path, pattern: str) -> str:
    matching = sorted(path for path in folder.glob(pattern) if path.is_dir())
    if not matching:
        return f"{str(folder)!r} has no folder {pattern!r}"
    return f"{len(matching)} folders match {str(folder / pattern)!r}; {_what_lies_at(matching[0] / '_')}"


def _what_lies_at(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        missing, folder = folder, folder.parent
        if folder.is_dir() and re.search(r"[*?\[]", missing.name):
            return _what_matching_folders_hold(folder, missing.name)
        if folder.is_dir():
            return f"{str(folder)!r} has no folder {missing.name!r}"
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return f"{str(folder)!r} is empty"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{str(folder)!r} holds: {', '.join(names[:10])}{more}"
