"""Reads rows from folders and patterns of images: an image's label is the name of its folder."""

import dataclasses
import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import find_label_problem, is_valid_unicode
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.convert.arguments import AUTO, LEAF, TOP
from imgpipe.components.convert.folder_structure import Structure, build_tree, find_structure
from imgpipe.components.convert.row_table import UNASSIGNED, UNKNOWN, RowTable
from imgpipe.components.convert.rows import Rows
from imgpipe.components.images.file_names import has_image_suffix
from imgpipe.components.storage import FileStatus, Location, find_files, is_hidden, parse_location

_MAX_NAMES = 10
_MAX_EXAMPLES = 3
# At most this many subfolders of a remote folder are listed.
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


def read_images(rows: Rows, images: str, label_from: str = AUTO) -> IgnoredFiles:
    """Adds the labeled images of a folder or pattern to ``rows`` and returns the other files.

    Args:
        rows: The rows are added to these.
        images: A folder with one subfolder per label, or with label folders in split folders, as
            ``folder_structure`` finds them; or a pattern such as ``photos/*/*.jpg``. Local,
            ``gs://`` or ``s3://``.
            Hidden files and folders are skipped; files without an image file extension are counted.
        label_from: ``leaf``: an image's label is the folder that holds it; ``top``: the first folder below
            ``images`` or the split; ``auto``: leaf for a pattern, top for a folder without nested labels.

    Raises:
        InvalidArgumentError: for a URL of another kind.
        MissingInputError: if the folder does not exist, or the pattern matches nothing.
        InvalidDataError: if the folder has another layout, or one that can be read in several ways.
    """
    location = parse_location(images)
    try:
        if location.has_wildcard and not (location.is_local and location.is_folder()):
            return _read_pattern(rows, images, label_from)
        return _read_folder(rows, images, location, label_from)
    except OSError as error:
        raise MissingInputError(
            f"cannot read the folder of images {images!r}: {error.strerror}",
            where=str(error.filename),
            remedy="check the path and the permissions",
        ) from None


# ---------------------------------------------------------------- patterns


def _read_pattern(rows: Rows, pattern: str, label_from: str) -> IgnoredFiles:
    # With several patterns, the root of the first; paths that are not below it are absolute.
    root = parse_location(pattern.split(",")[0]).pattern_root
    prefix = os.path.join(str(root), "")
    ignored = IgnoredFiles()
    listing = RowTable()
    for file, status in find_files(pattern).items():
        path = str(file)
        if not has_image_suffix(path):
            ignored.add(path)
            continue
        is_below = path.startswith(prefix)
        row_path = path.removeprefix(prefix) if is_below else str(file.absolute())
        _list_file(listing, row_path, status)
    if not len(listing):
        raise InvalidDataError(
            f"the pattern matches {plural(ignored.files, 'file')} but no image",
            where=pattern,
            remedy="use a pattern that matches image files (jpg, jpeg, png, gif, bmp, webp), each in a "
            "folder named after its label, e.g. photos/*/*.jpg",
        )
    if any(folder.startswith("/") or "://" in folder for folder in listing.label_names):
        structure = Structure((("", UNASSIGNED),), LEAF, root_label=root.name)
    else:
        tree = build_tree(_count_images(listing))
        structure = find_structure(tree, pattern, label_from, is_pattern=True)
        structure = dataclasses.replace(structure, root_label=root.name)
    _add_rows(rows, pattern, root, listing, structure, ignored)
    return ignored


# ---------------------------------------------------------------- folders


def _read_folder(rows: Rows, images: str, root: Location, label_from: str) -> IgnoredFiles:
    children = _children(root)
    folders = _visible_folders(children)
    if not folders:
        raise _layout_error(images, "no subfolder", children)
    for name in folders:
        _check_below(root, name, images)
    ignored = IgnoredFiles()
    listing = RowTable()
    images_in = dict.fromkeys(folders, 0) if root.is_local else {}
    for path, status in root.list_files(skip_hidden=True):
        if has_image_suffix(path):
            _list_file(listing, path, status)
        elif not path.endswith("/"):
            ignored.add(path)
            images_in.setdefault(path.rpartition("/")[0], 0)
    images_in.update(_count_images(listing))
    if root.is_local:
        # Folders without files.
        for name in folders:
            for below in () if images_in[name] else _subfolders(root / name):
                images_in.setdefault(f"{name}/{below}", 0)
    structure = find_structure(build_tree(images_in), images, label_from)
    ignored.folders = list(structure.ignored)
    images_of = Counter[str]()
    for path, _ in structure.parents:
        parent = root / path if path else root
        for label in _subfolders(parent) if structure.label_from == TOP else ():
            _check_label(label, str(parent))
            _check_below(parent, label, images)
            images_of[label] += 0
    images_of.update(_add_rows(rows, images, root, listing, structure, ignored))
    empty = sorted(label for label, count in images_of.items() if not count)
    # In a bucket, a folder exists only through its files, which are reported as ignored.
    if empty and root.is_local:
        raise InvalidDataError(
            f"no image in {len(empty)} of {len(images_of)} label folders: {', '.join(empty[:_MAX_NAMES])}",
            where=images,
            remedy=_describe_link(root, empty[0]) or "add images, or remove folders that are not labels",
        )
    return ignored


def _describe_link(root: Location, label: str) -> str:
    """Returns what to do about a label folder whose images have the label of another one; empty if none."""
    folder = root / label
    for other in _subfolders(root) if folder.is_folder() else ():
        if other != label and (root / other).resolve_links() == folder.resolve_links():
            return f"remove the link: {label!r} and {other!r} are the same folder"
    return ""


# ---------------------------------------------------------------- both


def _list_file(listing: RowTable, path: str, status: FileStatus | None) -> None:
    listing.append(0, 0, path, path.rpartition("/")[0], UNASSIGNED, status=status or UNKNOWN)


def _count_images(listing: RowTable) -> dict[str, int]:
    """Returns the number of images in each folder."""
    counts = np.bincount(listing.label_indices(np.arange(len(listing))), minlength=len(listing.label_names))
    return dict(zip(listing.label_names, counts.tolist(), strict=True))


def _add_rows(
    rows: Rows, images: str, root: Location, listing: RowTable, structure: Structure, ignored: IgnoredFiles
) -> Counter[str]:
    """Adds the listed images as rows and returns the number of images of each label."""
    source = rows.accepted.add_source(images, root)
    if not structure.is_plain:
        log_event("convert_structure", f"convert: {images}: {structure.describe()}")
    places = [structure.find_label(folder) for folder in listing.label_names]
    for folder, (_, label) in zip(listing.label_names, places, strict=True):
        if label is not None:
            _check_label(label, str(root / folder))
    folder_of = listing.label_indices(np.arange(len(listing)))
    parent_of = np.array([parent for parent, _ in places], np.int64)[folder_of]
    images_of = Counter[str]()
    for number, (parent, use) in enumerate(structure.parents):
        indices = np.flatnonzero(parent_of == number)
        if not len(indices):
            place = root / parent if parent else root
            raise _layout_error(str(place), "no image in a label's folder", _children(place))
        for index in indices.tolist():
            label = str(places[folder_of[index]][1])
            status = listing.status(index)
            path = listing.path(index)
            rows.add(source, 0, path, label, use=use, status=None if status == UNKNOWN else status)
            images_of[label] += 1
    for index in np.flatnonzero(parent_of < 0).tolist():
        path = listing.path(index)
        if path.partition("/")[0] not in structure.ignored:
            ignored.add(path)
    return images_of


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
    return [name.rstrip("/") for name in names if name.endswith("/") and not is_hidden(name.rstrip("/"))]


def _check_label(label: str, folder: str) -> None:
    problem = find_label_problem(label)
    if problem or not label or not is_valid_unicode(label) or label != label.strip():
        raise InvalidDataError(
            f"the folder name {label!r} cannot be a label{f': {problem}' if problem else ''}",
            where=folder,
            remedy="rename it to visible UTF-8 text without surrounding spaces",
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
