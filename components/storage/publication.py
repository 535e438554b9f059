"""Replaces a folder that other processes read.

Object stores, and some file systems, cannot replace a folder in one step. There, a small file beside the
folder, ``.NAME.current``, is the switch. While the files of the folder are replaced, it names a hidden folder
with a complete copy of the new ones, and readers use that. It changes with each publication: a reader that
finds another content than before may have read files of two publications, and reads again.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from imgpipe.components.common.errors import MissingInputError, OutputError
from imgpipe.components.storage.location import Location

Result = TypeVar("Result")

# Hidden folders of a publication, and local files while they are written; a killed one leaves them over.
_HIDDEN = r"\.{name}\.[0-9a-f]{{32}}\.(partial|old)"
_READ_FROM = "read_from"


def current_folder(folder: Location) -> Location:
    """Returns the folder with the complete files: itself, or the hidden copy while its files are replaced."""
    return _folder_of(folder, _read_switch(folder))


def read_unchanged(folder: Location, read: Callable[[Location], Result]) -> Result:
    """Returns the result of reading a folder that other processes may replace meanwhile.

    Args:
        folder: The published folder.
        read: Gets the folder with the complete files; called again if they were replaced meanwhile.
    """
    while True:
        switch, identity = _read_switch(folder), _identity(folder)
        try:
            result = read(_folder_of(folder, switch))
        except Exception:
            if (switch, identity) == (_read_switch(folder), _identity(folder)):
                raise
        else:
            if (switch, identity) == (_read_switch(folder), _identity(folder)):
                return result


def hidden_folder(folder: Location) -> Location:
    """Returns a new hidden folder beside a folder, for the files that will replace it."""
    return folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"


def is_first_publication(folder: Location, keep: re.Pattern[str] | None) -> bool:
    """Whether there is nothing that readers could miss while the folder is written."""
    return _read_switch(folder) is None and not _published_files(folder, keep)


def replace_files(
    source: Location,
    target: Location,
    *,
    keep: re.Pattern[str] | None = None,
    first: str = "",
    last: str = "",
) -> None:
    """Moves the files of a folder to another one, or replaces the files there.

    From the beginning, readers that follow the switch find the complete new files, also if this process is
    killed. Other readers find no folder with ``last`` until all files are replaced.

    Args:
        source: The folder with the new files; if there are old ones, from ``hidden_folder``.
        target: The folder whose files are replaced.
        keep: Keeps the subfolders of the target that match.
        first: The file that is copied first.
        last: The file that is removed first and copied last: without it, readers do not take the folder.

    Raises:
        OutputError: if files are missing afterwards.
    """
    is_first = is_first_publication(target, keep)
    if not is_first:
        _write_switch(target, source)
    files, replaced = _published_files(source, keep), _published_files(target, keep)
    if last in replaced:
        (target / last).remove()
    for name in replaced.keys() - files.keys():
        (target / name).remove()
    for name in in_order(files, first, last):
        if is_first:
            (source / name).rename(target / name)
        else:
            (source / name).copy_to(target / name)
    check_complete(target, files)
    if not is_first:
        _write_switch(target, None)
    remove_left_overs(target)


def in_order(names: Mapping[str, Any], first: str, last: str) -> list[str]:
    """Returns the names of files in the order in which they are written."""
    return sorted(names, key=lambda name: ({first: 0, last: 2}.get(name, 1), name))


def check_complete(folder: Location, expected: Mapping[str, int]) -> None:
    """Checks that a folder has files with the expected sizes.

    Raises:
        OutputError: if not.
    """
    found = folder.contents()
    for name, size in expected.items():
        if found.get(name) != size:
            raise OutputError(
                f"{folder / name!r} has {found.get(name, 0):,} of {size:,} bytes after it was written",
                remedy="another process writes to this folder, or the store is damaged: start it again",
            )


def remove_left_overs(folder: Location) -> None:
    """Removes what killed publications left: hidden folders, except one that readers use, and switches."""
    current = current_folder(folder)
    hidden, switch = (
        re.compile(_HIDDEN.format(name=re.escape(name))) for name in (folder.name, _switch(folder).name)
    )
    for child in folder.parent.children():
        name = child.rstrip("/")
        if hidden.fullmatch(name) and name != current.name:
            (folder.parent / name).remove_folder()
        elif switch.fullmatch(name):
            (folder.parent / name).remove()


def _switch(folder: Location) -> Location:
    return folder.parent / f".{folder.name}.current"


def _read_switch(folder: Location) -> bytes | None:
    """Returns the content of the switch; None if there is none."""
    folder = folder.absolute()
    try:
        return _switch(folder).read() if folder.name else None
    except (FileNotFoundError, NotADirectoryError, MissingInputError):
        return None


def _write_switch(folder: Location, read_from: Location | None) -> None:
    content = {"publication": uuid.uuid4().hex, **({_READ_FROM: read_from.name} if read_from else {})}
    _switch(folder).write(json.dumps(content).encode())


def _folder_of(folder: Location, switch: bytes | None) -> Location:
    try:
        name = json.loads(switch or b"{}").get(_READ_FROM, "")
    except (ValueError, AttributeError):
        return folder
    # Anyone with write access to the bucket may have set the name.
    hidden = _HIDDEN.format(name=re.escape(folder.absolute().name))
    return folder.absolute().parent / name if re.fullmatch(hidden, str(name)) else folder


def _identity(folder: Location) -> tuple[int, int] | None:
    """Returns what changes when a local folder is replaced in one step."""
    if not folder.is_local:
        return None
    try:
        status = os.stat(str(folder))
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _published_files(folder: Location, keep: re.Pattern[str] | None) -> dict[str, int]:
    return {
        name: size
        for name, size in folder.contents().items()
        if not name.endswith("/") and not (keep and keep.fullmatch(name.partition("/")[0]))
    }
