"""Folders and patterns as a source of rows: an image's label is the name of its folder."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import is_valid_unicode
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.convert.rows import Rows
from imgpipe.components.storage import Location, find_files, parse_location

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
_MAX_NAMES = 10
_MAX_EXAMPLES = 3
# Folders that somebody calls so are splits, in whatever case, unless they hold images themselves.
_SPLIT_NAMES = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])
# More folders than this in a folder of Cloud Storage are not looked through for train and val.
_MAX_FOLDERS = 10_000


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
        if len(self.examples) < _MAX_EXAMPLES:
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
    location = parse_location(images)
    try:
        if location.has_wildcard and not (location.is_local and location.is_folder()):
            return _read_pattern(rows, images)
        return _read_folder(rows, images, location)
    except OSError as error:
        raise MissingInputError(
            f"cannot read the folder of images {images!r}: {error.strerror}",
            where=str(error.filename),
            remedy="check the path and the permissions",
        ) from None


# ---------------------------------------------------------------- patterns


def _read_pattern(rows: Rows, pattern: str) -> NotUsed:
    # Of several patterns, the first one's; the paths of the others are absolute unless they are below it.
    root = parse_location(pattern.split(",")[0]).pattern_root
    source = rows.add_source(pattern, root)
    prefix = os.path.join(str(root), "")
    others = _Others()
    before = len(rows)
    for file, status in find_files(pattern).items():
        path = str(file)
        if not _is_image(path):
            others.add(path)
            continue
        label = file.parent.name
        _check_label(label, str(file.parent))
        below = path.removeprefix(prefix) if path.startswith(prefix) else str(file.absolute())
        rows.add(source, 0, below, label, status=status)
    if len(rows) == before:
        raise InvalidDataError(
            f"the pattern matches {others.files:,} files and no image",
            where=pattern,
            remedy="give a pattern of image files (jpg, jpeg, png, gif, bmp, webp), each in a folder named "
            "like its label, e.g. photos/*/*.jpg",
        )
    return others.not_used()


# ---------------------------------------------------------------- folders


def _read_folder(rows: Rows, images: str, root: Location) -> NotUsed:
    top = _children(root)
    folders = _visible_folders(top)
    validation = [name for name in _VALIDATION_FOLDERS if name in folders]
    _check_split_folders(images, folders, validation, lambda name: bool(_subfolders(root / name)))
    if not folders:
        raise _layout_error(images, "no subfolder", top)
    uses = _find_splits(folders, validation)
    source = rows.add_source(images, root)
    others = _Others()
    images_of: Counter[str] = Counter()
    for split, use in uses.items() if uses else (("", UNASSIGNED),):
        parent = root / split if split else root
        for label in _subfolders(parent) if split else folders:
            _check_label(label, str(parent))
            _check_below(parent, label, images)
            images_of[label] += 0
        before = len(rows)
        for name, status in parent.list_files(skip_hidden=True):
            label, _, file = name.partition("/")
            path = f"{split}/{name}" if split else name
            if not file or not _is_image(path):
                if not path.endswith("/"):
                    others.add(path)
                continue
            rows.add(source, 0, path, label, use=use, status=status)
            images_of[label] += 1
        if len(rows) == before:
            raise _layout_error(str(parent), "no image in a label's folder", _children(parent))
    empty = sorted(label for label, count in images_of.items() if not count)
    # In a bucket a folder without an image has other files, which are reported as not used.
    if empty and root.is_local:
        raise InvalidDataError(
            f"no image in {len(empty)} of {len(images_of)} label folders: {', '.join(empty[:_MAX_NAMES])}",
            where=images,
            remedy="add images to it, or remove the folder if it is not a label",
        )
    return others.not_used(name for name in folders if uses and name not in uses)


def _check_below(parent: Location, label: str, images: str) -> None:
    """Rejects a link to a folder above: every image would have this label, too."""
    target = (parent / label).resolve_links()
    if f"{parent.resolve_links()}/".startswith(f"{target}/"):
        raise InvalidDataError(
            f"the label folder {label!r} is a link to {target!r}, which contains it",
            where=images,
            remedy="remove the link, or link to a folder with this label's images only",
        )


def _subfolders(folder: Location) -> list[str]:
    return _visible_folders(_children(folder))


def _children(folder: Location) -> list[str]:
    return folder.children(None if folder.is_local else _MAX_FOLDERS)


def _visible_folders(names: list[str]) -> list[str]:
    return [name.rstrip("/") for name in names if name.endswith("/") and not name.startswith(".")]


def _find_splits(folders: list[str], validation: list[str]) -> dict[str, str]:
    """Returns the folders that are splits; empty when the folders are labels."""
    if not validation or _TRAIN_FOLDER not in folders:
        return {}
    uses = {_TRAIN_FOLDER: TRAIN, validation[0]: VALIDATION}
    return {**uses, _TEST_FOLDER: TEST} if _TEST_FOLDER in folders else uses


def _check_split_folders(
    folder: str, folders: list[str], validation: list[str], has_folders: Callable[[str], bool]
) -> None:
    has_train = _TRAIN_FOLDER in folders
    if len(validation) > 1 and has_train:
        raise InvalidDataError(
            f"the folder has both {validation[0]!r} and {validation[1]!r}",
            where=folder,
            remedy="keep one of the two",
        )
    splits = [name for name in folders if name.lower() in _SPLIT_NAMES]
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
            remedy=f"add {missing}, or give {parse_location(folder) / half!r} alone to have it split",
        )


def _check_label(label: str, folder: str) -> None:
    if not label or not is_valid_unicode(label) or label != label.strip() or "\n" in label or "\r" in label:
        raise InvalidDataError(
            f"the folder name {label!r} cannot be a label",
            where=folder,
            remedy="rename it: UTF-8, no line break, no space at either end",
        )


def _layout_error(folder: str, problem: str, names: list[str]) -> InvalidDataError:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    holds = ", ".join(names[:_MAX_NAMES]) + more if names else "nothing"
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
