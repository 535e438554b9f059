"""Folders and patterns as a source of rows: an image's label is the name of its folder."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import is_valid_unicode
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.convert.rows import Rows
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import SCHEME, StoredObject, is_cloud_path
from imgpipe.components.storage.files import absolute_location, folder_of, joined, local_path, match_pattern

# Pictures by their names. Those of a format that cannot be read are rows like the others, and are rejected
# with the reason: left out in silence, a label that lives on a phone's HEIC files would be missing.
_IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jif",
        ".png",
        ".gif",
        ".bmp",
        ".dib",
        ".webp",
        ".heic",
        ".heif",
        ".avif",
        ".tif",
        ".tiff",
        ".jp2",
        ".j2k",
        ".jxl",
        ".psd",
        ".svg",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
    ]
)
_TRAIN_FOLDER = "train"
_VALIDATION_FOLDERS = ("val", "validation", "valid")
_TEST_FOLDER = "test"
_NAMES_SHOWN = 10
_OTHERS_NAMED = 3
# Folders that somebody calls so are splits, in whatever case, unless they hold images themselves.
_WORDS_FOR_SPLITS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])
# More folders than this in a folder of Cloud Storage are not looked through for train and val.
_MOST_FOLDERS = 10_000


@dataclass(frozen=True)
class NotUsed:
    """What a folder holds besides labelled images: how many other files, the first of them, which folders."""

    files: int = 0
    folders: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


class _Others:
    """Counts files that are not used, and keeps the names of the first ones."""

    def __init__(self) -> None:
        self.files = 0
        self.examples: list[str] = []

    def add(self, name: str) -> None:
        self.files += 1
        if len(self.examples) < _OTHERS_NAMED:
            self.examples.append(name)

    def not_used(self, folders: Iterable[str] = ()) -> NotUsed:
        return NotUsed(self.files, tuple(folders), tuple(self.examples))


def read_images(rows: Rows, images: str) -> NotUsed:
    """Finds labelled images and puts them into ``rows``.

    Args:
        rows: Where the rows go.
        images: A folder with one subfolder a label, or with such subfolders in train, val (or
            validation) and, if there is one, test; or a pattern such as ``photos/*/*.jpg``. Local or
            ``gs://``. A label's images may lie in subfolders of its folder. Hidden files and folders are
            skipped; files whose names do not end like an image's are counted.

    Raises:
        InvalidArgumentError: for a URL that is not ``gs://``.
        MissingInputError: if there is no such folder, or the pattern matches nothing.
        InvalidDataError: if it is not of this form, with what it holds instead.
    """
    location = absolute_location(images)
    is_pattern = re.search(r"[*?\[]", images) is not None
    if is_pattern and (is_cloud_path(images) or not Path(location).is_dir()):
        return _read_pattern(rows, images)
    if is_cloud_path(images):
        return _read_cloud_folder(rows, images)
    try:
        return _read_folder(rows, images, local_path(images))
    except OSError as error:
        raise MissingInputError(
            f"cannot read the folder of images {images!r}: {error.strerror}",
            where=str(error.filename),
            remedy="check the path and the permissions",
        ) from None


# ---------------------------------------------------------------- patterns


def _read_pattern(rows: Rows, pattern: str) -> NotUsed:
    source = rows.add_source(pattern, folder_of(re.split(r"[*?\[]", pattern)[0]))
    root = rows.accepted.sources[source].root
    others = _Others()
    before = len(rows)
    for path, found in _matches(pattern):
        if not _is_image(path):
            others.add(path)
            continue
        label = os.path.basename(folder_of(path))
        _check_label(label, folder_of(path))
        relative = path.removeprefix(root).lstrip("/") if root else path
        rows.add(source, 0, relative, label, found=found)
    if len(rows) == before:
        raise InvalidDataError(
            f"the pattern matches {others.files:,} files and no image",
            where=pattern,
            remedy="give a pattern of image files (jpg, jpeg, png, gif, bmp, webp), each in a folder named "
            "like its label, e.g. photos/*/*.jpg",
        )
    return others.not_used()


def _matches(pattern: str) -> Iterator[tuple[str, StoredObject | None]]:
    if is_cloud_path(pattern) and "," not in pattern:
        bucket, _ = cloud_storage.bucket_and_name(pattern)
        found = cloud_storage.match_objects(pattern)
        if found:
            for match in found:
                yield f"{SCHEME}{bucket}/{match.name}", match
            return
    # Also for its error, which says what lies there instead.
    for path in match_pattern(pattern):
        yield path, None


# ---------------------------------------------------------------- folders of Cloud Storage


def _read_cloud_folder(rows: Rows, images: str) -> NotUsed:
    root = images.rstrip("/")
    top = cloud_storage.names_below(root + "/", _MOST_FOLDERS)
    folders = [name.rstrip("/") for name in top if name.endswith("/") and not _is_hidden(name)]
    validation = [name for name in _VALIDATION_FOLDERS if name in folders]
    _refuse_half_a_split(images, folders, validation, lambda name: _has_folders(f"{root}/{name}/"))
    if not folders:
        raise _not_of_the_form(images, "no subfolder", top)
    uses = _uses_of(folders, validation)
    source = rows.add_source(images, root)
    _, prefix = cloud_storage.bucket_and_name(root + "/")
    others = _Others()
    counts = dict.fromkeys(uses, 0)
    for found in cloud_storage.list_objects(root + "/"):
        path = found.name.removeprefix(prefix)
        parts = path.split("/")
        if any(map(_is_hidden, parts)) or path.endswith("/"):
            continue
        within = parts[1:] if uses else parts
        if uses and parts[0] not in uses:
            continue
        if len(within) < 2 or not _is_image(path):
            others.add(path)
            continue
        _check_label(within[0], joined(root, "/".join(parts[: len(parts) - len(within)])))
        rows.add(source, 0, path, within[0], use=uses.get(parts[0], UNASSIGNED), found=found)
        if uses:
            counts[parts[0]] += 1
    if not len(rows):
        raise _not_of_the_form(images, "no image in a label's folder", top)
    _refuse_empty(images, counts, top)
    return others.not_used(name for name in folders if uses and name not in uses)


def _has_folders(uri: str) -> bool:
    return any(name.endswith("/") for name in cloud_storage.names_below(uri, _MOST_FOLDERS))


def _refuse_empty(images: str, counts: dict[str, int], names: list[str]) -> None:
    for name, count in counts.items():
        if not count:
            raise _not_of_the_form(joined(images, name), "no image in a label's folder", names)


# ---------------------------------------------------------------- local folders


def _read_folder(rows: Rows, folder: str, root: Path) -> NotUsed:
    subfolders = _subfolders(root)
    validation = [name for name in _VALIDATION_FOLDERS if name in subfolders]
    _refuse_half_a_split(folder, subfolders, validation, lambda name: bool(_subfolders(root / name)))
    if not subfolders:
        raise _not_of_the_form(folder, "no subfolder", _names_in(root))
    source = rows.add_source(folder, str(root))
    uses = _uses_of(subfolders, validation)
    others = _Others()
    images_of: Counter[str] = Counter()
    for parent, use in uses.items() if uses else (("", UNASSIGNED),):
        before = len(rows)
        _add_label_folders(rows, source, folder, root, parent, use, images_of, others)
        if len(rows) == before:
            raise _not_of_the_form(
                os.path.join(folder, parent), "no image in a label's folder", _names_in(root / parent)
            )
    empty = sorted(label for label, images in images_of.items() if not images)
    if empty:
        raise InvalidDataError(
            f"no image in {len(empty)} of {len(images_of)} label folders: {', '.join(empty[:_NAMES_SHOWN])}",
            where=folder,
            remedy="put images into it, or take the folder away if it is no label",
        )
    return others.not_used(name for name in subfolders if uses and name not in uses)


def _add_label_folders(
    rows: Rows,
    source: int,
    folder: str,
    root: Path,
    parent: str,
    use: str,
    images_of: Counter[str],
    others: _Others,
) -> None:
    """Adds the images of the label folders in ``root/parent``; ``others`` gets the other files there.

    ``images_of`` counts the images of every label, those without one included.
    """
    for entry in sorted((root / parent).iterdir()):
        if entry.is_file() and not _is_hidden(entry.name):
            others.add(entry.relative_to(root).as_posix())
    for label in _subfolders(root / parent):
        _check_label(label, os.path.join(folder, parent))
        _check_below(root / parent, label, folder)
        images_of[label] += 0
        for path in _files_below(root / parent / label):
            if not _is_image(path.name):
                others.add(path.relative_to(root).as_posix())
                continue
            rows.add(source, 0, path.relative_to(root).as_posix(), label, use=use)
            images_of[label] += 1


def _check_below(parent: Path, label: str, folder: str) -> None:
    """Refuses a link that leads up: every image would be one of this label, too."""
    if parent.resolve().is_relative_to((parent / label).resolve()):
        raise InvalidDataError(
            f"the label folder {label!r} is a link to {str((parent / label).resolve())!r}, which holds it",
            where=folder,
            remedy="remove the link, or let it lead to a folder with the label's images only",
        )


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


def _names_in(folder: Path) -> list[str]:
    return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())


# ---------------------------------------------------------------- both


def _uses_of(folders: list[str], validation: list[str]) -> dict[str, str]:
    """Returns the folders that are splits; empty when the folders are labels."""
    if not validation or _TRAIN_FOLDER not in folders:
        return {}
    uses = {_TRAIN_FOLDER: TRAIN, validation[0]: VALIDATION}
    return {**uses, _TEST_FOLDER: TEST} if _TEST_FOLDER in folders else uses


def _refuse_half_a_split(
    folder: str, folders: list[str], validation: list[str], has_folders: Callable[[str], bool]
) -> None:
    has_train = _TRAIN_FOLDER in folders
    if len(validation) > 1 and has_train:
        raise InvalidDataError(
            f"the folder has both {validation[0]!r} and {validation[1]!r}",
            where=folder,
            remedy="keep one of the two",
        )
    splits = [name for name in folders if name.lower() in _WORDS_FOR_SPLITS]
    if not (has_train and validation) and len(splits) > 1 and all(map(has_folders, splits)):
        raise InvalidDataError(
            f"the folders {', '.join(map(repr, splits))} look like splits, not like labels",
            where=folder,
            remedy="call them train, val and, if there is one, test; or give one of them to have it split",
        )
    if has_train == bool(validation):
        return
    half = _TRAIN_FOLDER if has_train else validation[0]
    # Without folders inside, it may well be a label of that name: steam engines, locomotives, train.
    if has_folders(half):
        missing = "val (or validation)" if has_train else _TRAIN_FOLDER
        raise InvalidDataError(
            f"the folder has {half!r} but no {missing}",
            where=folder,
            remedy=f"add {missing}, or give {joined(folder, half)!r} alone to have it split",
        )


def _check_label(label: str, folder: str) -> None:
    if not label or not is_valid_unicode(label) or label != label.strip() or "\n" in label or "\r" in label:
        raise InvalidDataError(
            f"the folder name {label!r} cannot be a label",
            where=folder,
            remedy="rename it: UTF-8, no line break, no space at either end",
        )


def _not_of_the_form(folder: str, problem: str, names: list[str]) -> InvalidDataError:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    holds = ", ".join(names[:_NAMES_SHOWN]) + more if names else "nothing"
    return InvalidDataError(
        f"the folder of images has {problem}",
        where=f"{folder} holds: {holds}",
        remedy="give a folder with one subfolder a label, named like the label, with its images "
        "(jpg, jpeg, png, gif, bmp, webp) in it; or with such label folders in train and val",
    )


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _IMAGE_SUFFIXES


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
