"""The folder that a data set is written to: somebody else's is left alone, an unfinished one goes on.

While a conversion works, everything lies in a hidden work folder in the output folder. At the end the
finished files get their own names, ``manifest.json`` last, and the work folder goes.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from imgpipe.components.common.dataset import MANIFEST_NAME, TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InternalError, OutputError, PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.convert.rejections import HEADER, REJECTED_NAME
from imgpipe.components.storage import Location

LABELS_NAME = "labels.txt"
WORK_FOLDER = ".imgpipe-convert-unfinished"
# Tells a person who looks.
_MARKER = f"{WORK_FOLDER}/README"
_MARKER_TEXT = (
    b"A conversion by imgpipe is at work here, or was interrupted: start it again and it goes on.\n"
)
_SHARD = rf"(?:{TRAIN}|{VALIDATION}|{TEST})-\d{{5}}-of-\d{{5}}"
_TOP = rf"(?:{_SHARD}|{re.escape(LABELS_NAME)}|{re.escape(MANIFEST_NAME)}|{re.escape(REJECTED_NAME)})"
_OUTPUT_FILE = re.compile(rf"{_TOP}|\.{_TOP}\.[0-9a-f]{{32}}\.partial")
_WORK_FILE = rf"(?:README|{_SHARD}(?:\.json|\.partial|\.rows)?)"
_WORK_FOLDER_FILE = re.compile(
    rf"{re.escape(WORK_FOLDER)}/(?:{_WORK_FILE}|\.{_WORK_FILE}\.[0-9a-f]{{32}}\.partial)?"
)
_FINISHED_SHARD = re.compile(_SHARD)


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the name that Google's converter gave to shard ``number`` (from 0) of ``count``."""
    return f"{split}-{number:05d}-of-{count:05d}"


@contextmanager
def reserve_output_folder(folder: Location) -> Iterator[None]:
    """Guards a conversion into a folder, which is made if it is missing.

    A conversion that was interrupted or killed, or whose Beam runner failed, leaves its work folder, and the
    next one goes on from there. One that fails for another reason leaves nothing but rejected.csv.

    One conversion at a time works in a local folder: a second one is refused. A bucket has no locks; there, a
    conversion whose files another one has taken away ends in an error, not well.

    Raises:
        OutputError: if the folder cannot be written, another conversion works in it, or it holds anything but
            the remains of a conversion that did not end well.
    """
    with folder.lock():
        with explain_write_errors(folder):
            _prepare_work_folder(folder)
            (folder / _MARKER).write(_MARKER_TEXT)
        try:
            yield
        except PipelineError as error:
            if not error.retry_can_help and not isinstance(error, InternalError):
                _remove_output(folder, keep=REJECTED_NAME)
            raise
        except Exception:
            _remove_output(folder, keep=REJECTED_NAME)
            raise
        with explain_write_errors(folder):
            _remove_work(folder)


def publish(folder: Location, shards: list[str], files: dict[str, bytes]) -> None:
    """Gives the finished shards their own names and writes the files beside them.

    Args:
        folder: The output folder.
        shards: The names of the shards that the work folder holds.
        files: Name and content of what else belongs there; manifest.json is written last.
    """
    with explain_write_errors(folder):
        for name in shards:
            (folder / WORK_FOLDER / name).rename(folder / name)
        for name in sorted(files, key=lambda name: name == MANIFEST_NAME):
            (folder / name).write(files[name])
        missing = {*shards, *files} - set(folder.contents())
    if missing:
        raise OutputError(
            f"{min(missing)!r} was written to {folder!r} and is not there any more",
            remedy="let one conversion at a time write to a folder; start this one again",
        )


@contextmanager
def explain_write_errors(folder: Location) -> Iterator[None]:
    """Makes an OutputError of the system's errors, e.g. a full disk, in a block that writes to ``folder``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"cannot write to {folder!r}: {error.strerror or error}",
            remedy="free some space or name another folder" if full else "name a folder that can be written",
        ) from None


def _prepare_work_folder(folder: Location) -> None:
    """Makes of what lies in the folder the work folder of this conversion, or refuses it."""
    names = folder.contents()
    is_unfinished = any(name.startswith(f"{WORK_FOLDER}/") for name in names)
    others = [
        name
        for name in names
        if not (is_unfinished and (_OUTPUT_FILE.fullmatch(name) or _WORK_FOLDER_FILE.fullmatch(name)))
    ]
    if not is_unfinished and others == [REJECTED_NAME] and _is_list_of_rejections(folder):
        # All that a conversion leaves that was refused for its rejected rows.
        (folder / REJECTED_NAME).remove()
        return
    if others:
        raise OutputError(
            f"{folder!r} exists already and is not an empty folder: it holds {others[0]!r}",
            remedy="name a new folder; nothing is deleted or overwritten",
        )
    if not is_unfinished:
        return
    log_event("convert_resumed", f"convert: a conversion into {folder} did not finish; it goes on")
    # The manifest first: from now on, nothing looks finished.
    for name in sorted(names, key=lambda name: name != MANIFEST_NAME):
        if _FINISHED_SHARD.fullmatch(name):
            (folder / name).rename(folder / WORK_FOLDER / name)
        elif _OUTPUT_FILE.fullmatch(name) or name.endswith(".partial"):
            (folder / name).remove()


def _is_list_of_rejections(folder: Location) -> bool:
    return (folder / REJECTED_NAME).read().startswith(",".join(HEADER).encode() + b"\n")


def _remove_output(folder: Location, keep: str = "") -> None:
    for name in folder.contents():
        if _OUTPUT_FILE.fullmatch(name) and name != keep:
            (folder / name).remove()
    _remove_work(folder)


def _remove_work(folder: Location) -> None:
    # The marker last: a kill in between leaves what the next run knows as ours.
    for name in sorted(folder.contents(), key=lambda name: name == _MARKER):
        if _WORK_FOLDER_FILE.fullmatch(name) and not name.endswith("/"):
            (folder / name).remove()
    (folder / WORK_FOLDER).remove_empty_folder()
