"""Finds the splits and labels in a tree of folders with images, by its shape rather than by names alone.

Folders whose names say train, validation or test are splits if they contain folders. The labels are the
folders below. Where folders are nested further, either the top folders or the folders that hold the images
may be the labels; the error then describes both readings.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.plural import plural
from imgpipe.components.convert.arguments import AUTO, LEAF, TOP
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.storage import parse_location

_MAX_NAMES = 5
# Folders of which at least this share of subfolder names occurs in several of them look like splits.
_COMMON_SHARE = 0.5
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ORDER = (TRAIN, VALIDATION, TEST)
# Folders of these names, and no others, are the parts of a data set for another task, not labels.
_PARTS = frozenset(
    ["image", "images", "img", "imgs", "mask", "masks", "label", "labels", "annotation", "annotations"]
)
# Words that may stand beside the name of a split, or be joined to it.
_COMPANIONS = ("set", "data", "dataset", "image", "images", "img", "imgs", "split", "folder")
_SPLIT_WORDS = {
    use: re.compile(rf"({words})({'|'.join(_COMPANIONS)})?")
    for use, words in (
        (TRAIN, "train|training|trn"),
        (VALIDATION, "val|valid|validation|validate|dev"),
        (TEST, "test|testing|tst"),
    )
}


@dataclass
class Folder:
    """A folder of the tree: the images directly in it, and its subfolders by name."""

    images: int = 0
    folders: dict[str, "Folder"] = field(default_factory=dict)

    @property
    def images_below(self) -> int:
        """The number of images in its subfolders."""
        return sum(folder.images + folder.images_below for folder in self.folders.values())

    @property
    def has_images(self) -> bool:
        """Whether there is an image in it or below."""
        return bool(self.images or self.images_below)

    @property
    def is_parent(self) -> bool:
        """Whether its content is rather its subfolders than the images directly in it."""
        return bool(self.folders) and self.images <= self.images_below

    def leaves(self) -> Iterator[tuple[str, int]]:
        """Yields the name of each folder below that holds images, and their number."""
        for name, folder in self.folders.items():
            if folder.images:
                yield name, folder.images
            yield from folder.leaves()


@dataclass(frozen=True)
class Structure:
    """What a tree of folders was taken for.

    Attributes:
        parents: The folders that contain the label folders, relative to the root, with their split.
        label_from: ``top``: an image's label is the first folder below the parent; ``leaf``: the folder that
            holds the image.
        ignored: The folders beside splits that are not splits.
        root_label: The label of images directly in the root; empty = they are not used.
    """

    parents: tuple[tuple[str, str], ...]
    label_from: str
    ignored: tuple[str, ...] = ()
    root_label: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the folders in the root are the labels."""
        return self.parents == (("", UNASSIGNED),) and self.label_from == TOP

    def find_label(self, folder: str) -> tuple[int, str | None]:
        """Returns the number of the parent of a folder with images, and their label; else -1 and None."""
        if not folder:
            return (0, self.root_label) if self.root_label and not self.parents[0][0] else (-1, None)
        for number, (parent, _) in enumerate(self.parents):
            prefix = f"{parent}/" if parent else ""
            if folder.startswith(prefix):
                names = folder.removeprefix(prefix).split("/")
                return number, names[-1 if self.label_from == LEAF else 0]
        return -1, None

    def describe(self) -> str:
        """Returns the place of the labels and the splits, for the log."""
        where = "the folders that hold the images" if self.label_from == LEAF else "the names of the folders"
        places = [
            f"{path or 'the folder'} ({use or 'split at random'})"
            if len(self.parents) > 1 or not use
            else path
            for path, use in self.parents
        ]
        return f"the labels are {where} in {', '.join(places)}"


def build_tree(images_in: Mapping[str, int]) -> Folder:
    """Returns the tree of folders, given the number of images directly in each by relative path."""
    root = Folder()
    for path, count in images_in.items():
        folder = root
        for name in path.split("/") if path else ():
            folder = folder.folders.setdefault(name, Folder())
        folder.images += count
    return root


def find_structure(root: Folder, images: str, label_from: str, *, is_pattern: bool = False) -> Structure:
    """Finds the splits and labels.

    Args:
        root: The tree.
        images: The user's folder or pattern, for messages.
        label_from: ``auto``, ``leaf`` or ``top``. With a pattern, ``auto`` means ``leaf``.
        is_pattern: Whether ``images`` is a pattern.

    Raises:
        InvalidDataError: if the tree can be read in several ways; the error describes them.
    """
    path, start = _unwrap("", root)
    is_auto = label_from == AUTO
    splits = _find_splits(path, start, images, is_auto=is_auto and not is_pattern)
    if is_auto and not splits:
        _check_flat_splits(start, images)
    if splits:
        parents = [
            (*_unwrap(_join(path, name), start.folders[name]), UNASSIGNED if use == TRAIN else use)
            for name, use in splits.items()
        ]
        if VALIDATION in splits.values():
            parents[0] = (*parents[0][:2], TRAIN)
    else:
        parents = [(path, start, UNASSIGNED)]
    if is_auto:
        label_from = LEAF if is_pattern else TOP
    if is_auto and not is_pattern:
        _check_nesting([(below, folder) for below, folder, _ in parents], images)
        _check_parts([folder for _, folder, _ in parents], images)
    ignored = [name for name in start.folders if splits and name not in splits]
    return Structure(tuple((below, use) for below, _, use in parents), label_from, tuple(ignored))


def find_split(name: str) -> tuple[str, str]:
    """Returns the split that a folder's name says, and the rest of the name; empty if none, or several.

    ``seg_train`` and ``seg_test`` have the same rest, unlike the labels ``train station`` and ``test tube``.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    uses = {use for use, pattern in _SPLIT_WORDS.items() if any(map(pattern.fullmatch, words))}
    if len(uses) != 1:
        return "", ""
    (use,) = uses
    rest = [word for word in words if not _SPLIT_WORDS[use].fullmatch(word) and word not in _COMPANIONS]
    return use, " ".join(rest)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _unwrap(path: str, folder: Folder) -> tuple[str, Folder]:
    """Descends while a folder contains only one folder, of folders: as a label it would be the only one."""
    below, inner = path, folder
    while not inner.images and len(inner.folders) == 1:
        ((name, only),) = inner.folders.items()
        if find_split(name)[0] and not find_split(path.rpartition("/")[2])[0]:
            break
        below, inner = _join(below, name), only
        if len(inner.folders) > 1 and inner.is_parent:
            path, folder = below, inner
    return path, folder


def _check_flat_splits(folder: Folder, images: str) -> None:
    """Rejects train/1.jpg and test/2.jpg: their labels would be train and test."""
    names = [name for name, below in folder.folders.items() if below.has_images]
    is_flat = all(len(list(folder.folders[name].leaves())) <= 1 for name in names)
    if len(names) > 1 and is_flat and all(find_split(name)[0] for name in names):
        raise InvalidDataError(
            f"the folders {_quoted(names)} look like splits, but contain images and no label folders",
            where=images,
            remedy=f"put the images of each label into a folder, e.g. {names[0]}/LABEL/1.jpg; or, if a table "
            "has the labels, use train_csv; or, if these are the labels, set label_from=top",
        )


def _find_splits(path: str, folder: Folder, images: str, *, is_auto: bool) -> dict[str, str]:
    """Returns the split of each split folder, training first; empty if there are none.

    Raises:
        InvalidDataError: if a split is missing, occurs twice, or has no label folders.
    """
    by_rest: dict[str, dict[str, str]] = {}
    for name in folder.folders:
        use, rest = find_split(name)
        if use and folder.folders[name].is_parent:
            by_rest.setdefault(rest, {})[name] = use
    complete = [rest for rest, found in by_rest.items() if {TRAIN} < set(found.values())]
    # train and val beside train_masks and val_masks.
    rests = [""] if "" in complete else complete or list(by_rest)
    found = by_rest[rests[0]] if len(rests) == 1 else {}
    uses = set(found.values())
    if not uses & {TRAIN, VALIDATION}:
        return {}
    named = {name: find_split(name) for name in folder.folders}
    flat = [name for name, (use, rest) in named.items() if use and use not in uses and rest == rests[0]]
    if flat and TRAIN in uses and (is_auto or len(uses) > 1):
        raise InvalidDataError(
            f"the folder {flat[0]!r} has no label folders, unlike {_quoted(found)}",
            where=images,
            remedy="put its images into label folders, or move it to another place",
        )
    if TRAIN not in uses or len(uses) == 1:
        if is_auto:
            raise _missing_split_error(path, folder, found, images)
        return {}
    for use in uses:
        names = sorted(name for name in found if found[name] == use)
        if len(names) > 1:
            raise InvalidDataError(
                f"the folder has both {names[0]!r} and {names[1]!r}",
                where=images,
                remedy="keep one of the two",
            )
    return dict(sorted(found.items(), key=lambda item: _ORDER.index(item[1])))


def _missing_split_error(
    path: str, folder: Folder, found: Mapping[str, str], images: str
) -> InvalidDataError:
    name = next(name for name, use in found.items() if use in (TRAIN, VALIDATION))
    is_train = found[name] == TRAIN
    missing = "val (or validation), and no test" if is_train else TRAIN
    remedy = (
        f"add {'val or test' if is_train else TRAIN}, or rename the folder with these images; or set "
        f"images to {parse_location(images) / _join(path, name)!r}, which is then split"
    )
    if len(folder.folders) > 1:
        remedy += f"; or, if the folders are not splits, {_both_readings([folder])}"
    return InvalidDataError(
        f"the folder has {name!r} but no {missing}", where=_content(folder, images), remedy=remedy
    )


def _check_parts(parents: list[Folder], images: str) -> None:
    """Rejects images/1.jpg and masks/1.jpg: their labels would be images and masks."""
    names = {name for parent in parents for name, folder in parent.folders.items() if folder.has_images}
    if len(names) > 1 and all(name.lower() in _PARTS for name in names):
        raise InvalidDataError(
            f"the folders {_quoted(sorted(names))} look like the parts of a data set for another task, "
            "such as segmentation, not like labels",
            where=images,
            remedy="put the images of each label into a folder, e.g. LABEL/1.jpg; or, if a table has the "
            "labels, use train_csv; or, if these are the labels, set label_from=top",
        )


def _check_nesting(places: list[tuple[str, Folder]], images: str) -> None:
    """Rejects label folders that contain several folders with images: either may be the labels.

    Args:
        places: The folders that contain the label folders, by path.
        images: The user's folder, for messages.
    """
    parents = [folder for _, folder in places]
    groups = {
        name: folder
        for parent in parents
        for name, folder in parent.folders.items()
        if len(list(folder.leaves())) > 1 and folder.images < folder.images_below
    }
    if not groups:
        return
    names_in = {name: set(_unwrap("", folder)[1].folders) for name, folder in groups.items()}
    counts = Counter(name for names in names_in.values() for name in names)
    common = sorted(name for name, count in counts.items() if count > 1)
    uses = {find_split(name)[0] for name in counts}
    if len(uses) > 1 and "" not in uses:
        if len(groups) == 1 and all(
            folder is groups.get(name) or not folder.has_images
            for parent in parents
            for name, folder in parent.folders.items()
        ):
            raise _splits_in_a_part_error(places[0][0], groups, images)
        raise InvalidDataError(
            f"the label folders {_quoted(groups)} contain the splits {_quoted(sorted(counts))}",
            where=images,
            remedy=f"put the splits above the labels, e.g. {min(counts)}/{min(groups)}; or, to draw new "
            "splits at random from all images, set label_from=top",
        )
    if len(parents) == 1 and len(groups) > 1 and len(common) >= _COMMON_SHARE * len(counts):
        raise InvalidDataError(
            f"the folders {_quoted(groups)} contain folders of the same names, {_quoted(common)}: they may "
            "be splits, but their names do not say which is for training",
            where=images,
            remedy=f"if they are splits, rename them to train, val and, optionally, test; if not: "
            f"{_both_readings(parents)}",
        )
    raise InvalidDataError(
        f"{_quoted(groups)}: folders with several folders of images; either may be the labels",
        where=images,
        remedy=_both_readings(parents),
    )


def _splits_in_a_part_error(path: str, groups: Mapping[str, Folder], images: str) -> InvalidDataError:
    """Returns the error for splits in the only folder with images, beside others, e.g. of annotations."""
    ((name, folder),) = groups.items()
    splits = sorted(folder.folders)
    if any(below.folders for below in folder.folders.values()):
        remedy = f"set images to {parse_location(images) / _join(path, name)!r}"
    else:
        remedy = (
            f"put the images of each label into a folder, e.g. {name}/{splits[0]}/LABEL/1.jpg; or, if a "
            "table has the labels, use train_csv"
        )
    return InvalidDataError(
        f"the folder {name!r} contains the splits {_quoted(splits)}, and the folders beside it have no "
        "images",
        where=images,
        remedy=remedy,
    )


def _both_readings(parents: list[Folder]) -> str:
    leaf: Counter[str] = Counter()
    top: Counter[str] = Counter()
    for parent in parents:
        for name, count in parent.leaves():
            leaf[name] += count
        for name, folder in parent.folders.items():
            top[name] += folder.images + folder.images_below
    return (
        f"set label_from=leaf if the labels are the folders that hold the images: {_describe(leaf)}; "
        f"set label_from=top if they are the folders above: {_describe(top)}"
    )


def _describe(images_of: Counter[str]) -> str:
    names = sorted(name for name, count in images_of.items() if count)
    shown = ", ".join(f"{name} ({plural(images_of[name], 'image')})" for name in names[:_MAX_NAMES])
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return f"{plural(len(names), 'label')}, {shown}{more}"


def _content(folder: Folder, images: str) -> str:
    names = sorted(folder.folders)
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return f"{images} contains: {', '.join(f'{name}/' for name in names[:_MAX_NAMES])}{more}"


def _quoted(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MAX_NAMES:,} more" if len(listed) > _MAX_NAMES else ""
    return ", ".join(map(repr, listed[:_MAX_NAMES])) + more
