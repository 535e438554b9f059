"""The folder that a data set is written to: empty before, whole or without a data set after."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.common.dataset import MANIFEST_NAME, TRAIN, VALIDATION
from components.common.errors import OutputError
from components.common.log import log_event
from components.common.storage import check_empty, check_writable
from components.convert.rejections import HEADER, REJECTED_NAME

LABELS_NAME = "labels.txt"
# Stands in the folder from the first to the last moment of a conversion.
UNFINISHED_NAME = ".imgpipe-convert-unfinished"
_SHARD = rf"(?:{TRAIN}|{VALIDATION})-\d{{5}}-of-\d{{5}}"
_NAME = rf"(?:{_SHARD}|{re.escape(LABELS_NAME)}|{re.escape(MANIFEST_NAME)}|{re.escape(REJECTED_NAME)})"
_OURS = re.compile(rf"{_NAME}|\.{_NAME}\.[0-9a-f]{{32}}\.partial")


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the name that Google's converter gave to shard ``number`` (from 0) of ``count``."""
    return f"{split}-{number:05d}-of-{count:05d}"


@contextmanager
def conversion_into(folder: Path) -> Iterator[None]:
    """Guards a conversion into ``folder``, which is made if it is missing.

    If the block fails, what it wrote is removed, except rejected.csv. A conversion that was killed
    leaves a marker beside its files, by which the next one knows them and removes them.

    Raises:
        OutputError: if the folder cannot be written, or holds anything but the remains of a
            conversion that did not end well.
    """
    _remove_remains(folder)
    check_empty(folder)
    check_writable(folder)
    marker = folder / UNFINISHED_NAME
    try:
        marker.touch()
        yield
    except BaseException:
        _remove_ours(folder, keep=REJECTED_NAME)
        marker.unlink(missing_ok=True)
        raise
    marker.unlink()


@contextmanager
def writing_explained(folder: Path) -> Iterator[None]:
    """Makes an OutputError of the system's errors, e.g. a full disk, in a block that writes to ``folder``."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}",
            remedy="free some space or name another folder",
        ) from None


def _remove_remains(folder: Path) -> None:
    """Removes what an earlier conversion left, if it left no data set."""
    if not folder.is_dir() or (folder / MANIFEST_NAME).exists():
        return
    if (folder / UNFINISHED_NAME).exists():
        log_event("convert_restarted", f"convert: a conversion into {folder} was killed; starting it again")
        _remove_ours(folder)
        (folder / UNFINISHED_NAME).unlink()
    elif [entry.name for entry in folder.iterdir()] == [REJECTED_NAME]:
        # All that a conversion leaves that was refused for its rejected rows.
        rejected = folder / REJECTED_NAME
        with rejected.open("rb") as file:
            if file.readline().strip() == ",".join(HEADER).encode():
                rejected.unlink()


def _remove_ours(folder: Path, keep: str = "") -> None:
    for entry in list(folder.iterdir()):
        if _OURS.fullmatch(entry.name) and entry.name != keep:
            entry.unlink()
