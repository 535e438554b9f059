"""The output folder of a conversion: other files in it are never touched, an unfinished conversion resumes.

A running conversion writes to a hidden work folder inside the output folder. At the end the finished files
are moved to their final names, ``manifest.json`` last, and the work folder is removed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from imgpipe.components.common.dataset import MANIFEST_NAME, TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InternalError, OutputError, PipelineError, must_be_writable
from imgpipe.components.common.log import log_event
from imgpipe.components.common.parallel import run_in_parallel
from imgpipe.components.convert.rejections import HEADER, REJECTED_NAME
from imgpipe.components.storage import PARALLEL_DOWNLOADS, Location

LABELS_NAME = "labels.txt"
WORK_FOLDER = ".imgpipe-convert-unfinished"
_MARKER = f"{WORK_FOLDER}/README"
_MARKER_TEXT = b"A conversion by imgpipe is running here or was interrupted: start it again to resume it.\n"
_SHARD = rf"(?:{TRAIN}|{VALIDATION}|{TEST})-\d{{5,}}-of-\d{{5,}}"
_TOP = rf"(?:{_SHARD}|{re.escape(LABELS_NAME)}|{re.escape(MANIFEST_NAME)}|{re.escape(REJECTED_NAME)})"
_OUTPUT_FILE = re.compile(rf"{_TOP}|\.{_TOP}\.[0-9a-f]{{32}}\.partial")
_WORK_FILE = rf"(?:README|{_SHARD}(?:\.json|\.partial|\.rows)?)"
_WORK_FOLDER_FILE = re.compile(
    rf"{re.escape(WORK_FOLDER)}/(?:{_WORK_FILE}|\.{_WORK_FILE}\.[0-9a-f]{{32}}\.partial)?"
)
_FINISHED_SHARD = re.compile(_SHARD)


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the name of shard ``number`` (from 0) of ``count``, as Google's converter names it."""
    return f"{split}-{number:05d}-of-{count:05d}"


@contextmanager
def reserve_output_folder(folder: Location) -> Iterator[None]:
    """Reserves an output folder for the conversion in the ``with`` block; creates it if it does not exist.

    If the conversion is interrupted or killed, or its Beam runner fails, the work folder remains and the next
    conversion resumes from it. If it fails for another reason, only rejected.csv remains.

    A local folder is locked: a second conversion into it is rejected. Buckets have no locks: there, a
    conversion fails if another one has moved or removed its files.

    Raises:
        OutputError: if the folder cannot be written, another conversion is running in it, or it contains
            anything but the files of an unfinished conversion.
    """
    with folder.lock():
        with must_be_writable(f"to {folder!r}"):
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
        with must_be_writable(f"to {folder!r}"):
            _remove_work(folder)


def publish(folder: Location, shards: list[str], files: dict[str, bytes]) -> None:
    """Moves the finished shards to their final names and writes the other files of the data set.

    Args:
        folder: The output folder.
        shards: The names of the shards in the work folder.
        files: Name and content of the other files; manifest.json is written last.
    """
    with must_be_writable(f"to {folder!r}"):
        # A bucket copies each: one after the other, thousands would take hours.
        run_in_parallel(
            lambda name: (folder / WORK_FOLDER / name).rename(folder / name), shards, PARALLEL_DOWNLOADS
        )
        for name in sorted(files, key=lambda name: name == MANIFEST_NAME):
            (folder / name).write(files[name])
        missing = {*shards, *files} - set(folder.contents())
    if missing:
        raise OutputError(
            f"{min(missing)!r} was written to {folder!r} but has disappeared",
            remedy="run only one conversion at a time into a folder, and start this one again",
        )


def _prepare_work_folder(folder: Location) -> None:
    """Moves the files of an unfinished conversion into its work folder; rejects a folder with other files."""
    names = folder.contents()
    is_unfinished = any(name.startswith(f"{WORK_FOLDER}/") for name in names)
    others = [
        name
        for name in names
        if not (is_unfinished and (_OUTPUT_FILE.fullmatch(name) or _WORK_FOLDER_FILE.fullmatch(name)))
    ]
    rejected = folder / REJECTED_NAME
    first_line = ",".join(HEADER).encode() + b"\n"
    if not is_unfinished and others == [REJECTED_NAME] and rejected.read().startswith(first_line):
        # The only file left by a conversion that failed because of too many rejected rows.
        rejected.remove()
        return
    if others:
        raise OutputError(
            f"{folder!r} already exists and is not empty: it contains {others[0]!r}",
            remedy="choose a new folder; nothing is deleted or overwritten",
        )
    if not is_unfinished:
        return
    log_event("convert_resumed", f"convert: resuming the unfinished conversion in {folder}")
    # The manifest first: from then on, the data set no longer looks finished.
    for name in sorted(names, key=lambda name: name != MANIFEST_NAME):
        if _FINISHED_SHARD.fullmatch(name):
            (folder / name).rename(folder / WORK_FOLDER / name)
        elif _OUTPUT_FILE.fullmatch(name) or name.endswith(".partial"):
            (folder / name).remove()


def _remove_output(folder: Location, keep: str = "") -> None:
    for name in folder.contents():
        if _OUTPUT_FILE.fullmatch(name) and name != keep:
            (folder / name).remove()
    _remove_work(folder)


def _remove_work(folder: Location) -> None:
    names = [
        name for name in folder.contents() if _WORK_FOLDER_FILE.fullmatch(name) and not name.endswith("/")
    ]
    others = [name for name in names if name != _MARKER]
    run_in_parallel(lambda name: (folder / name).remove(), others, PARALLEL_DOWNLOADS)
    # The marker last: if the process is killed here, the next run still recognizes the work folder.
    if _MARKER in names:
        (folder / _MARKER).remove()
    (folder / WORK_FOLDER).remove_empty_folder()
