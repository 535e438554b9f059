"""Reads rows from folders and patterns of images: an image's label is the name of its folder."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import is_valid_unicode
from imgpipe.components.common.plural import plural
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.convert.rows import Rows
from imgpipe.components.storage import Location, find_files, parse_location

# Files of unsupported formats become rows too and are rejected with the reason: if they were ignored, a label
# with only HEIC files from a phone would be missing.
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
# Folders with these names, in upper or lower case, are splits unless they directly contain images.
_SPLIT_NAMES = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])
# At most this many subfolders of a folder in Cloud Storage are searched for train and val.
_MAX_FOLDERS = 10_000


@dataclass
class IgnoredFiles:
    """Files that are not labeled images: their number, the first few names, and ignored folders."""

    files: int = 0
    folders: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Counts a file."""
        self.files += 1
        if len(self.examples) < _MAX_EXAMPLES:
            self.examples.append(name)


def read_images(rows: Rows, images: str) -> IgnoredFiles:
    """Adds the labeled images of a folder or pattern to ``rows`` and returns the other files.

    Args:
        rows: The rows are added to these.
        images: A folder with one subfolder per label, or with label folders in train, val (or validation)
            and, optionally, test; or a pattern such as ``photos/*/*.jpg``. Local or ``gs://``. A label's
            images may be in subfolders of its folder. Hidden files and folders are skipped; files without
            an image file extension are counted.

    Raises:
        InvalidArgumentError: for a URL that is not ``gs://``.
        MissingInputError: if the folder does not exist, or the pattern matches nothing.
        InvalidDataError: if the folder has another layout; the error lists its content.
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


def _read_pattern(rows: Rows, pattern: str) -> IgnoredFiles:
    # With several patterns, the root of the first; paths that are not below it are absolute.
    root = parse_location(pattern.split(",")[0]).pattern_root
    source = rows.accepted.add_source(pattern, root)
    prefix = os.path.join(str(root), "")
    ignored = IgnoredFiles()
    before = len(rows)
    for file, status in find_files(pattern).items():
        path = str(file)
        if not _is_image(path):
            ignored.add(path)
            continue
        label = file.parent.name
        _check_label(label, str(file.parent))
        row_path = path.removeprefix(prefix) if path.startswith(prefix) else str(file.absolute())
        rows.add(source, 0, row_path, label, status=status)
    if len(rows) == before:
        raise InvalidDataError(
            f"the pattern matches {plural(ignored.files, 'file')} but no image",
            where=pattern,
            remedy="use a pattern that matches image files (jpg, jpeg, png, gif, bmp, webp), each in a "
            "folder named after its label, e.g. photos/*/*.jpg",
        )
    return ignored


# ---------------------------------------------------------------- folders


def _read_folder(rows: Rows, images: str, root: Location) -> IgnoredFiles:
    children = _children(root)
    folders = _visible_folders(children)
    validation = [name for name in _VALIDATION_FOLDERS if name in folders]
    _check_split_folders(images, folders, validation, lambda name: bool(_subfolders(root / name)))
    if not folders:
        raise _layout_error(images, "no subfolder", children)
    uses = _find_splits(folders, validation)
    source = rows.accepted.add_source(images, root)
    ignored = IgnoredFiles(folders=[name for name in folders if uses and name not in uses])
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
                    ignored.add(path)
                continue
            rows.add(source, 0, path, label, use=use, status=status)
            images_of[label] += 1
        if len(rows) == before:
            raise _layout_error(str(parent), "no image in a label's folder", _children(parent))
    empty = sorted(label for label, count in images_of.items() if not count)
    # In a bucket, a folder exists only through its files, which are reported as ignored.
    if empty and root.is_local:
        raise InvalidDataError(
            f"no image in {len(empty)} of {len(images_of)} label folders: {', '.join(empty[:_MAX_NAMES])}",
            where=images,
            remedy="add images, or remove folders that are not labels",
        )
    return ignored


def _check_below(parent: Location, label: str, images: str) -> None:
    """Rejects a link to a parent folder: every image would get this label too."""
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
    """Returns the split of each split folder; empty if the folders are labels."""
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
            remedy="rename them to train, val and, optionally, test; or set images to one of them, which is "
            "then split",
        )
    if has_train == bool(validation):
        return
    half = _TRAIN_FOLDER if has_train else validation[0]
    # A folder without subfolders may be a label that is named train, among other vehicles.
    if has_folders(half):
        missing = "val (or validation)" if has_train else _TRAIN_FOLDER
        raise InvalidDataError(
            f"the folder has {half!r} but no {missing}",
            where=folder,
            remedy=f"add {missing}, or set images to {parse_location(folder) / half!r}, which is then split",
        )


def _check_label(label: str, folder: str) -> None:
    if not label or not is_valid_unicode(label) or label != label.strip() or "\n" in label or "\r" in label:
        raise InvalidDataError(
            f"the folder name {label!r} cannot be a label",
            where=folder,
            remedy="rename it to UTF-8 text without line breaks or surrounding spaces",
        )


def _layout_error(folder: str, problem: str, names: list[str]) -> InvalidDataError:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    content = ", ".join(names[:_MAX_NAMES]) + more if names else "nothing"
    return InvalidDataError(
        f"the folder of images has {problem}",
        where=f"{folder} contains: {content}",
        remedy="use a folder with one subfolder per label, named after the label, that contains its images "
        "(jpg, jpeg, png, gif, bmp, webp); or put such label folders into train and val",
    )


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in _IMAGE_SUFFIXES
