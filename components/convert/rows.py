"""From CSV files or a folder of label folders to rows: which image has which label.

Everything is checked here that can be checked without opening an image, so that most mistakes show
within seconds. A row that fails becomes a Rejection and the others go on.
"""

import csv
import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from components.common.errors import InvalidDataError, MissingInputError
from components.common.storage import local_path

# A record ends at 2 GiB, and no image that training can use comes near this.
LARGEST_FILE_BYTES = 2**30
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"))
_TRAIN_FOLDER = "train"
_VALIDATION_FOLDERS = ("val", "validation")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image that exists.

    Attributes:
        file: The CSV file or the folder, as the user gave it.
        line: The line of the CSV file, from 1; 0 in a folder.
        path: The image's path as the row has it; in a folder, relative to the folder.
        label: The label's name.
        location: Where the image lies.
        bytes: The size of the image's file.
    """

    file: str
    line: int
    path: str
    label: str
    location: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is not used, and why; ``path`` and ``label`` are as far as the row has them."""

    file: str
    line: int
    path: str
    label: str
    reason: str


@dataclass
class Rows:
    """The rows of one source, in its order, apart from those that are rejected."""

    accepted: list[Row] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.accepted) + len(self.rejected)

    def add(self, file: str, line: int, path: str, label: str, location: str, problem: str) -> None:
        """Accepts the row if there is no problem with its label and a regular file at its location."""
        size = 0
        if not problem:
            size, problem = _file_size(location)
        if problem:
            self.rejected.append(Rejection(file, line, path, label, problem))
        else:
            self.accepted.append(Row(file, line, path, label, location, size))


@dataclass(frozen=True)
class FolderRows:
    """What a folder holds; ``validation`` is None when the folder has no splits of its own."""

    train: Rows
    validation: Rows | None
    other_files: int
    other_folders: tuple[str, ...]


def read_csv(file: str, known_labels: Sequence[str]) -> Rows:
    """Reads a CSV file of ``path,label`` rows.

    UTF-8 with or without a byte order mark, any line ends, blank lines skipped; a field in double
    quotes may hold commas and doubled quotes, but no line break. Relative paths belong to the
    folder of the CSV file. White space around a label is not part of it.

    Args:
        file: The path of the CSV file, as the user gave it.
        known_labels: The labels that are allowed; empty = any.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not UTF-8 (with the line), or has no row.
    """
    rows = Rows()
    path = local_path(file)
    problem_of = _label_check(known_labels)
    for number, line in _lines(file, path):
        image, label, problem = _parse_line(line)
        if not problem:
            problem = problem_of(label)
        rows.add(file, number, image, label, os.path.join(path.parent, image), problem)
        if number == 1 and label.lower() in ("label", "labels", "class") and rows.rejected:
            reason = "looks like a header line, which the file must not have"
            rows.rejected[0] = Rejection(file, number, image, label, reason)
    if not len(rows):
        raise InvalidDataError(
            "the CSV file has no rows", where=file, remedy="write one path,label a line, without a header"
        )
    return rows


def read_folder(folder: str, known_labels: Sequence[str]) -> FolderRows:
    """Finds the images in a folder with one subfolder a label, or with such subfolders in train and val.

    A label's images may lie in subfolders of its folder. Hidden files and folders are skipped;
    files whose names do not end like an image's are counted.

    Args:
        folder: The path of the folder, as the user gave it.
        known_labels: The labels that are allowed; empty = any.

    Raises:
        MissingInputError: if there is no such folder.
        InvalidDataError: if it is not of this form, with what it holds instead.
    """
    try:
        return _folder_rows(folder, local_path(folder), known_labels)
    except OSError as error:
        raise MissingInputError(
            f"cannot read the folder of images {folder!r}: {error.strerror}",
            where=str(error.filename),
            remedy="check the path and the permissions",
        ) from None


def _folder_rows(folder: str, root: Path, known_labels: Sequence[str]) -> FolderRows:
    subfolders = _subfolders(root)
    validation_folders = [name for name in _VALIDATION_FOLDERS if name in subfolders]
    _refuse_half_a_split(folder, root, subfolders, validation_folders)
    if not subfolders:
        raise _not_of_the_form(folder, "no subfolder", root)
    other_files = 0

    def rows_in(parent: str) -> Rows:
        nonlocal other_files
        rows, others = _label_folders(folder, root, parent, known_labels)
        other_files += others
        if not len(rows):
            raise _not_of_the_form(
                os.path.join(folder, parent), "no image in a label's folder", root / parent
            )
        return rows

    if validation_folders:
        train, validation = rows_in(_TRAIN_FOLDER), rows_in(validation_folders[0])
        others = tuple(name for name in subfolders if name not in (_TRAIN_FOLDER, *validation_folders))
        return FolderRows(train, validation, other_files, others)
    return FolderRows(rows_in(""), None, other_files, ())


def _lines(file: str, path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of every line that is not blank."""
    try:
        # Bytes that are not UTF-8 become lone surrogates, which tells on which line they are.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.isascii() and not _is_unicode(line):
                    raise InvalidDataError(
                        "the CSV file is not UTF-8",
                        where=f"{file}, line {number}",
                        remedy="save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')",
                    )
                if line.strip():
                    yield number, line.rstrip("\n")
    except OSError as error:
        raise MissingInputError(
            f"cannot read the CSV file {file!r}: {error.strerror}", remedy="check the path"
        ) from None


def _parse_line(line: str) -> tuple[str, str, str]:
    """Returns path, label and what is wrong with the row, if anything."""
    # One line at a time: a quote that is never closed spoils its own row, not the rest of the file.
    try:
        cells = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except csv.Error as error:
        return line, "", f"the quotes do not match ({error})"
    if len(cells) != 2:
        count = f"{len(cells)} column" + ("" if len(cells) == 1 else "s")
        return cells[0], ",".join(cells[1:]), f"{count} instead of 2 (path,label)"
    path, label = cells[0], cells[1].strip()
    url = _URL.match(path)
    if not path.strip():
        return path, label, "the path is empty"
    if not label:
        return path, label, "the label is empty"
    if url:
        return path, label, f"this version reads local files only, not {url.group(0)}; copy the images first"
    return path, label, ""


def _label_check(known_labels: Sequence[str]) -> Callable[[str], str]:
    """Returns a function from a label to what is wrong with it; each label is looked up once."""
    problems = dict.fromkeys(known_labels, "")

    def problem_of(label: str) -> str:
        if known_labels and label not in problems:
            near = difflib.get_close_matches(label, known_labels, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            problems[label] = f"the label {label!r} is not in the labels file{guess}"
        return problems.get(label, "")

    return problem_of


def _file_size(location: str) -> tuple[int, str]:
    """Returns the size in bytes and what is wrong with the file, if anything."""
    try:
        status = os.stat(location)
    except FileNotFoundError:
        return 0, f"no such file: {location}"
    except (OSError, ValueError) as error:
        # ValueError: a NUL character in the path.
        return 0, f"cannot read {location!r}: {getattr(error, 'strerror', None) or error}"
    if not stat.S_ISREG(status.st_mode):
        return 0, f"not a file: {location}"
    if status.st_size > LARGEST_FILE_BYTES:
        return 0, f"the file has {status.st_size:,} bytes, more than {LARGEST_FILE_BYTES:,}"
    return status.st_size, ""


def _label_folders(folder: str, root: Path, parent: str, known_labels: Sequence[str]) -> tuple[Rows, int]:
    rows = Rows()
    others = sum(entry.is_file() and not _is_hidden(entry.name) for entry in (root / parent).iterdir())
    problem_of = _label_check(known_labels)
    for label in _subfolders(root / parent):
        label_folder = os.path.join(parent, label)
        if not _is_unicode(label) or label != label.strip() or "\n" in label or "\r" in label:
            raise InvalidDataError(
                f"the folder name {label!r} cannot be a label",
                where=os.path.join(folder, parent),
                remedy="rename it: UTF-8, no line break, no space at either end",
            )
        for path in _files_below(root / label_folder):
            if path.suffix.lower() not in _IMAGE_SUFFIXES:
                others += 1
                continue
            rows.add(folder, 0, path.relative_to(root).as_posix(), label, str(path), problem_of(label))
    return rows, others


def _files_below(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder in the order of their names, links followed, hidden ones left out."""
    seen = set()
    for current, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        status = os.stat(current)
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            # A link to a folder above: without this, it would never end.
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            if not _is_hidden(name):
                yield Path(current, name)


def _raise(error: OSError) -> NoReturn:
    # os.walk would pass over a folder that it cannot read, and its images would be missing in silence.
    raise error


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name))


def _refuse_half_a_split(folder: str, root: Path, subfolders: list[str], validation: list[str]) -> None:
    has_train = _TRAIN_FOLDER in subfolders
    if len(validation) > 1 and has_train:
        raise InvalidDataError(
            "the folder has both 'val' and 'validation'", where=folder, remedy="keep one of the two"
        )
    if has_train == bool(validation):
        return
    half = _TRAIN_FOLDER if has_train else validation[0]
    # Without folders inside, it may well be a label of that name: steam engines, locomotives, train.
    if _subfolders(root / half):
        missing = "val (or validation)" if has_train else _TRAIN_FOLDER
        raise InvalidDataError(
            f"the folder has {half!r} but no {missing}",
            where=folder,
            remedy=f"add {missing}, or give {os.path.join(folder, half)!r} alone to have it split",
        )


def _not_of_the_form(folder: str, problem: str, location: Path) -> InvalidDataError:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in location.iterdir())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    holds = ", ".join(names[:10]) + more if names else "nothing"
    return InvalidDataError(
        f"the folder of images has {problem}",
        where=f"{folder} holds: {holds}",
        remedy="give a folder with one subfolder a label, named like the label, with its images "
        "(jpg, jpeg, png, gif, bmp, webp) in it; or with such label folders in train and val",
    )


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
