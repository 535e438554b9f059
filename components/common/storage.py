"""Files and folders: finding what a pattern means, and writing so that nothing half-written shows."""

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.common.errors import InvalidArgumentError, MissingInputError, OutputError


def local_path(text: str) -> Path:
    """Returns the path that a user wrote, with ``~`` expanded.

    Raises:
        InvalidArgumentError: for a URL such as ``gs://...``, which this version does not read.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", text)
    if scheme:
        raise InvalidArgumentError(
            f"{text!r}: this version reads and writes local files only, not {scheme.group(0)}",
            remedy="copy the data to a local folder and name that",
        )
    return Path(text).expanduser()


def match_pattern(pattern: str) -> list[Path]:
    """Returns the files that a path or glob means, sorted by name.

    The dialect is the original algorithm's: ``*`` (within a folder), ``?``, ``[1-9]``. Several
    patterns may be given, separated by commas, unless a file of the whole name exists.

    Raises:
        MissingInputError: if a pattern matches no file; the message says what lies there instead.
    """
    if local_path(pattern).is_file():
        return [local_path(pattern)]
    found: set[Path] = set()
    for part in pattern.split(","):
        path = local_path(part.strip())
        matches = [file for file in _glob(path) if file.is_file()]
        if not matches:
            raise MissingInputError(
                f"{part.strip()!r} matches no file",
                where=_what_lies_at(path),
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


def publish_folder(source: Path, target: Path) -> None:
    """Copies a folder to ``target`` by write-then-swap.

    The copy is complete before it takes the target's name. A folder that stood there before is
    moved aside first and removed last: at any moment either the old or the new one is there whole,
    under its name or, for the instant between two renames, under a name that begins with a dot.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex
    incoming = target.parent / f".{target.name}.{mark}.partial"
    outgoing = target.parent / f".{target.name}.{mark}.old"
    try:
        shutil.copytree(source, incoming)
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


def _what_lies_at(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        missing, folder = folder, folder.parent
        if folder.is_dir():
            return f"{str(folder)!r} has no folder {missing.name!r}"
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return f"{str(folder)!r} is empty"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{str(folder)!r} holds: {', '.join(names[:10])}{more}"
