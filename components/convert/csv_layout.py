"""Finds the columns of a CSV file that lists images, from its first rows.

A file whose first rows all have another form than ``path,label`` has one problem, not one in each row: it is
read by its column names, or rejected with what to do about it.
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InvalidDataError, PipelineError
from imgpipe.components.convert.arguments import GROUP, LABEL, PATH, SPLIT, parse_columns
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.images.file_names import IMAGE_SUFFIXES, has_image_suffix
from imgpipe.components.storage import Location, is_hidden, resolve

# Vertex AI uses training, validation, test; its predecessor used TRAIN, VALIDATION, TEST, UNASSIGNED.
USES = {
    "training": TRAIN,
    "train": TRAIN,
    "validation": VALIDATION,
    "validate": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
    "unassigned": UNASSIGNED,
    "": UNASSIGNED,
}
# How many rows are examined.
SAMPLE_ROWS = 200
_SUFFIX_ROWS = 20
_MAX_FOLDERS = 200
_MAX_NAMES = 5
# Names of columns, only their letters, the clearest first.
_PATH_NAMES = (
    frozenset(
        [
            *("path", "filepath", "imagepath", "imgpath", "filename", "imagefilename", "imagefile", "file"),
            *("fname", "imagename", "imgname", "imagegcsuri", "gcsuri", "uri", "url", "imageuri", "imageurl"),
        ]
    ),
    frozenset(["image", "images", "img", "imageid", "imgid", "id", "name"]),
)
_LABEL_NAMES = (
    frozenset(["label", "labels", "labelname", "class", "classname", "category", "categoryname"]),
    frozenset(["target", "species", "breed", "tag", "tags", "classes", "classid", "labelid", "y"]),
)
_SPLIT_NAMES = (frozenset(["split", "mluse", "use", "subset", "set", "partition", "fold"]),)
# In such a column, true stands for validation and false for training.
_VALIDATION_NAMES = (frozenset(["isvalid", "isval", "isvalidation"]),)
_VALIDATION_USES = {"true": VALIDATION, "1": VALIDATION, "false": TRAIN, "0": TRAIN}
_INDEX_NAMES = frozenset(["", "index", "unnamed", "rownumber", "row"])
_ONE_HOT = frozenset(["0", "1", "0.0", "1.0", "true", "false"])
# A table with so many columns of numbers, and no path, has pixels.
_PIXEL_COLUMNS = 16
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')


@dataclass(frozen=True)
class CsvLayout:
    """The columns of a file, counted from 0.

    Attributes:
        path: The column of the paths.
        labels: The columns of the labels; one unless the data set is multi-label. Empty = all after the path.
        split: The column of the splits; None if there is none.
        group: The column of the groups, whose rows stay in one split; None if there is none.
        header: Whether the first line has the names of the columns.
        suffix: The file extension that the paths lack.
        width: The number of columns; 0 = any.
        uses: The splits by what stands in the column of the splits, in lower case.
    """

    path: int
    labels: tuple[int, ...]
    split: int | None = None
    group: int | None = None
    header: bool = False
    suffix: str = ""
    width: int = 0
    uses: Mapping[str, str] = field(default_factory=lambda: USES)

    def describe(self, names: Sequence[str]) -> str:
        """Returns the columns, for the log; ``names`` is the first row."""
        parts = [
            (PATH, self.path),
            *((LABEL, number) for number in self.labels),
            (SPLIT, self.split),
            (GROUP, self.group),
        ]
        shown = [
            f"{role} = column {number + 1}{f' ({names[number]})' if self.header else ''}"
            for role, number in parts
            if number is not None
        ]
        if self.suffix:
            shown.append(f"{self.suffix} is added to the paths")
        return ", ".join(shown)


@dataclass(frozen=True)
class _Sample:
    """The first rows of a file.

    Attributes:
        file: The file, as the user gave it.
        root: The folder of relative paths.
        rows: The cells, without surrounding space.
        multi_label: Whether a row may have several labels.
    """

    file: str
    root: Location
    rows: Sequence[Sequence[str]]
    multi_label: bool

    def column(self, number: int, *, header: bool = False) -> list[str]:
        """Returns the cells of a column; those of short rows are empty."""
        return [row[number] if len(row) > number else "" for row in self.rows[header:]]

    def is_image(self, cell: str) -> bool:
        """Whether a cell is the path of an image: by its extension or scheme, or because the file exists."""
        return has_image_suffix(cell) or "://" in cell or self.exists(cell)

    def exists(self, cell: str, root: Location | None = None) -> bool:
        """Whether a local file exists."""
        return _exists(root or self.root, cell)


def is_separator_line(line: str, file: str) -> bool:
    """Whether a first line is ``sep=,``, which a spreadsheet writes.

    Raises:
        InvalidDataError: if it names another separator.
    """
    match = _SEPARATOR_LINE.fullmatch(line.strip())
    if match and match[1] != ",":
        raise _separator_error(match[1], file)
    return match is not None


def check_quotes(lines: Sequence[str], file: str) -> None:
    """Rejects lines such as ``"1.jpg";"rose"``, whose cells are in quotes but not separated by commas.

    Args:
        lines: The first lines, of which none has matching quotes.
        file: The file, as the user gave it.

    Raises:
        InvalidDataError: naming the separator.
    """
    for separator in ";\t|":
        if lines and all(f'"{separator}"' in line for line in lines):
            raise _separator_error(separator, file)


def find_layout(
    rows: Sequence[Sequence[str]], file: str, root: Location, columns: str, *, multi_label: bool
) -> CsvLayout | None:
    """Returns the layout of a file; None if its rows have the form ``path,label`` or ``ml_use,path,label``.

    Args:
        rows: The cells of the first rows.
        file: The file, as the user gave it.
        root: The folder of relative paths.
        columns: The argument ``columns``; empty = found by the column names.
        multi_label: Whether a row may have several labels.

    Raises:
        InvalidDataError: if all rows have another form, with what to do about it.
    """
    stripped = _strip_rows(rows)
    same_length = len({len(row) for row in stripped}) == 1
    sample = _Sample(file, root, stripped, multi_label)
    if columns:
        return _with_suffix(_given_layout(sample, parse_columns(columns)), sample)
    header = _has_header(sample, same_length=same_length)
    layout = _named_layout(sample) if header else None
    if not same_length:
        if layout is not None and multi_label and layout.path == 0:
            layout = CsvLayout(0, (), group=layout.group, header=True)
        return _with_suffix(layout, sample)
    if header and len(stripped) == 1:
        return layout
    if layout is None:
        _check_one_hot(sample, header=header)
        if header:
            raise _unclear_header_error(sample)
        layout = _check_positions(sample)
    return _with_suffix(layout, sample)


def _strip_rows(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns the cells without surrounding space, and without the columns at the end that are empty."""
    stripped = [[cell.strip() for cell in row] for row in rows]
    lengths = [
        max(number for number, cell in enumerate(row, start=1) if cell or number <= 2) for row in stripped
    ]
    width = max(lengths)
    return [
        row[:width] if len(row) >= width else row[:length]
        for row, length in zip(stripped, lengths, strict=True)
    ]


# ---------------------------------------------------------------- columns with names


def _given_layout(sample: _Sample, columns: dict[str, list[str]]) -> CsvLayout:
    """Returns the layout that the argument ``columns`` describes."""
    first = sample.rows[0]
    by_name = any(name in first for names in columns.values() for name in names)

    def number(name: str) -> int:
        if name in first:
            return first.index(name)
        if name.isdecimal() and 1 <= int(name) <= len(first):
            return int(name) - 1
        raise InvalidDataError(
            f"there is no column {name!r}",
            where=f"{sample.file}, line 1: {','.join(first)}",
            remedy="use the names in line 1, or the numbers of the columns, from 1",
        )

    numbers = {role: [number(name) for name in names] for role, names in columns.items()}
    labels = tuple(numbers[LABEL])
    if len(labels) > 1 and not sample.multi_label:
        raise InvalidDataError(
            "`columns` names several labels, but each image has one",
            where=sample.file,
            remedy="name one column, or set multi_label=true if an image may have several labels",
        )
    path = numbers[PATH][0]
    split = numbers[SPLIT][0] if SPLIT in numbers else None
    body = [row[path] for row in sample.rows[1:] if len(row) > path]
    is_header = by_name or (
        not sample.is_image(first[path]) and bool(body) and all(map(sample.is_image, body))
    )
    group = numbers[GROUP][0] if GROUP in numbers else None
    return CsvLayout(path, labels, split, group, is_header, width=len(first))


def _has_header(sample: _Sample, *, same_length: bool) -> bool:
    """Whether the first row has names of columns: clear ones, or no image while all others have one."""
    first = sample.rows[0]
    if len(first) < 2 or any(map(sample.is_image, first)):
        return False
    if _named_layout(sample) is not None:
        return True
    if not same_length or len(sample.rows) < 3:
        return False
    columns = [sample.column(number, header=True) for number in range(len(first))]
    # A label occurs again, the name of a column does not.
    has_label = any(name in cells for name, cells in zip(first, columns, strict=True))
    return not has_label and any(all(map(sample.is_image, cells)) for cells in columns)


def _named_layout(sample: _Sample) -> CsvLayout | None:
    """Returns the layout that the column names in the first row describe; None if they are not clear."""
    names = [re.sub(r"[\W\d_]", "", name.lower()) for name in sample.rows[0]]
    path = _find_column(names, _PATH_NAMES)
    split = _find_column(names, _SPLIT_NAMES)
    if path is None:
        return None
    if split is not None and any(cell.lower() not in USES for cell in sample.column(split, header=True)):
        split = None
    uses = USES
    flag = _find_column(names, _VALIDATION_NAMES)
    if split is None and flag is not None:
        cells = sample.column(flag, header=True)
        if all(cell.lower() in _VALIDATION_USES for cell in cells):
            split, uses = flag, _VALIDATION_USES
    others = [
        number
        for number, name in enumerate(names)
        if number not in (path, split) and name not in _INDEX_NAMES
    ]
    group = names.index(GROUP) if names.count(GROUP) == 1 and len(others) > 1 else None
    others = [number for number in others if number != group]
    labels = others
    if len(others) > 1:
        labels = [
            others[number] for number in _find_columns([names[number] for number in others], _LABEL_NAMES)
        ]
    if not labels or (len(labels) > 1 and not sample.multi_label):
        return None
    return CsvLayout(path, tuple(labels), split, group, header=True, width=len(names), uses=uses)


def _find_columns(names: Sequence[str], groups: Sequence[frozenset[str]]) -> list[int]:
    """Returns the numbers of the columns with a name in the first group that has one."""
    found = ([number for number, name in enumerate(names) if name in group] for group in groups)
    return next(filter(None, found), [])


def _find_column(names: Sequence[str], groups: Sequence[frozenset[str]]) -> int | None:
    """Returns the number of the only such column; None if there are none or several."""
    found = _find_columns(names, groups)
    return found[0] if len(found) == 1 else None


def _unclear_header_error(sample: _Sample) -> InvalidDataError:
    names = sample.rows[0]
    images = [
        number
        for number in range(len(names))
        if all(map(sample.is_image, sample.column(number, header=True)))
    ]
    path = images[0] if images else 0
    others = [number for number, name in enumerate(names) if name and number != path]
    texts = [number for number in others if not all(map(_is_number, sample.column(number, header=True)))]
    labels = [names[number] for number in texts or others]
    remedy = f"name them, e.g. {_argument(path=names[path], label=labels[0] if len(labels) == 1 else 'NAME')}"
    if len(labels) > 1:
        shown = ", ".join(labels[:_MAX_NAMES]) + (", ..." if len(labels) > _MAX_NAMES else "")
        remedy += f" with the column of the label as NAME: one of {shown}"
    if not texts:
        remedy += "; a label is a name: if each label has a column of numbers, write the name instead"
    return InvalidDataError(
        "the names of the columns do not say which ones are the path and the label",
        where=f"{sample.file}, line 1: {','.join(names)}",
        remedy=remedy,
    )


# ---------------------------------------------------------------- columns without names


def _check_one_hot(sample: _Sample, *, header: bool) -> None:
    """Rejects columns of zeros and ones: they are not names of labels."""
    columns = [sample.column(number, header=header) for number in range(len(sample.rows[0]))]
    hot = [number for number, cells in enumerate(columns) if all(cell.lower() in _ONE_HOT for cell in cells)]
    # An index of two rows is 0, 1.
    if hot and hot[0] == 0:
        hot = hot[1:]
    if len(hot) < 2:
        return
    names = [sample.rows[0][number] if header else str(number + 1) for number in hot]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    ones = [
        [
            name if header else "NAME"
            for name, number in zip(names, hot, strict=True)
            if row[number][0] in "1tT"
        ]
        for row in sample.rows[header:]
    ]
    several = sample.multi_label or any(len(labels) > 1 for labels in ones)
    remedy = f"write the names of each image's labels, e.g. {','.join([sample.rows[header][0], *ones[0]])}"
    if not several:
        remedy += "; in pandas: table.set_index(PATH_COLUMN).idxmax(axis=1)"
    elif not sample.multi_label:
        remedy += ", and set multi_label=true"
    raise InvalidDataError(
        f"the columns {shown} contain only 0 and 1 (one-hot); labels are names",
        where=sample.file,
        remedy=remedy,
    )


def _check_positions(sample: _Sample) -> CsvLayout | None:
    """Rejects rows without names whose columns have another order or number.

    Raises:
        InvalidDataError: naming the argument that describes them.
    """
    width = len(sample.rows[0])
    if width == 1:
        _check_separator([row[0] for row in sample.rows], sample)
        _check_one_column(sample)
        return None
    images = [number for number in range(width) if all(map(sample.is_image, sample.column(number)))]
    if not images:
        _check_pixels(sample)
        return None
    path = images[0]
    others = [number for number in range(width) if number != path]
    splits = [number for number in others if all(cell.lower() in USES for cell in sample.column(number))]
    filled = [number for number in splits if any(sample.column(number))]
    if path == 1 and 0 in splits and (width > 2 or not sample.multi_label):
        others.remove(0)
        if width == 2 or len(others) == 1 or sample.multi_label:
            # The form of Vertex AI; or its label is missing.
            return None
        filled = [0]
    elif path == 0 and (width == 2 or (sample.multi_label and not filled)):
        return None
    index = 0 if path > 0 and all(cell.isdecimal() for cell in sample.column(0)) and width > 2 else None
    split = filled[0] if filled else None
    labels = [number for number in others if number not in (index, split)]
    example = ",".join(sample.rows[0])
    if len(labels) == 1:
        roles = {path: PATH, labels[0]: LABEL, split: SPLIT, index: "row number"}
        numbers = {roles[number]: number + 1 for number in (path, labels[0], split) if number is not None}
        raise InvalidDataError(
            f"the columns are {','.join(roles[number] for number in range(width))}, not path,label",
            where=f"{sample.file}, line 1: {example}",
            remedy=f"set {_argument(**numbers)}",
        )
    remedy = f"say which column is the label: {_argument(path=path + 1, label=labels[0] + 1)}"
    if path == 0 and not any(_is_number(cell) for number in labels for cell in sample.column(number)):
        remedy += "; or, if each of them is a label of the image, set multi_label=true"
    raise InvalidDataError(
        f"{width} columns instead of 2 (path,label)", where=f"{sample.file}, line 1: {example}", remedy=remedy
    )


def _check_separator(lines: Sequence[str], sample: _Sample) -> None:
    """Rejects lines with another separator than the comma; the name of a file that exists may contain it."""
    for separator in ";\t| ":
        parts = [line.split(separator) for line in lines]
        has_image = [any(has_image_suffix(part.strip('"')) for part in row) for row in parts]
        # The first line may have the names of the columns. A space occurs in any text.
        is_listed = all(has_image[1:]) if len(lines) > 1 else all(has_image)
        if (
            all(len(row) > 1 for row in parts)
            and ((is_listed and sample.root.is_local) or separator != " ")
            and not any(map(sample.exists, lines))
        ):
            raise _separator_error(separator, sample.file)


def _check_one_column(sample: _Sample) -> None:
    """Rejects a list of images without labels, with or without the name of its column."""
    cells = sample.column(0)
    images = cells[1:] if len(cells) > 1 and not sample.is_image(cells[0]) else cells
    if not sample.multi_label and all(map(sample.is_image, images)):
        raise InvalidDataError(
            "the file has one column: the labels of the images are missing",
            where=f"{sample.file}, line 1: {cells[0]}",
            remedy="write the label after each path: path,label; or, if the folders of the images are the "
            "labels, set images to the folder that contains them",
        )


def _check_pixels(sample: _Sample) -> None:
    """Rejects a table with the pixels of one image in each row."""
    body = sample.rows[1:]
    if (
        len(sample.rows[0]) >= _PIXEL_COLUMNS
        and body
        and all(_is_number(cell) for row in body for cell in row)
    ):
        raise InvalidDataError(
            f"the file has {len(sample.rows[0])} columns of numbers: pixels, not the paths of images",
            where=sample.file,
            remedy="save each row as an image file, and list the files: one path,label per line",
        )


def _argument(**columns: str | int) -> str:
    """Returns the argument ``columns`` with these columns, quoted for a shell where needed."""
    return "columns=" + shlex.quote(",".join(f"{role}={name}" for role, name in columns.items()))


def _separator_error(separator: str, file: str) -> InvalidDataError:
    name = {";": "semicolons", "\t": "tabs", " ": "spaces"}.get(separator, repr(separator))
    return InvalidDataError(
        f"the columns are separated by {name}",
        where=file,
        remedy=f"columns are separated by commas, not {name}: save the file with commas",
    )


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.]+", cell) is not None


# ---------------------------------------------------------------- files that the paths name


def _with_suffix(layout: CsvLayout | None, sample: _Sample) -> CsvLayout | None:
    """Returns the layout with the extension that all paths lack.

    Raises:
        InvalidDataError: if no path names a file, but all would with another extension or folder.
    """
    given = layout
    if layout is None and all(len(row) == 2 for row in sample.rows):
        layout = CsvLayout(0, (1,), width=2)
    if layout is None or not sample.root.is_local:
        return given
    paths = [path for path in sample.column(layout.path, header=layout.header)[:_SUFFIX_ROWS] if path]
    if paths and all(path.lower().startswith(("http://", "https://")) for path in paths):
        raise InvalidDataError(
            f"the images are on a web server: {paths[0]}",
            where=sample.file,
            remedy="download them to a folder, and write their paths in it",
        )
    if not paths or any("://" in path or sample.exists(path) for path in paths):
        return given
    found = _matching_suffixes(paths, sample.root)
    if len(found) == 1:
        return dataclasses.replace(layout, suffix=found[0])
    if found:
        raise InvalidDataError(
            f"the paths have no file extension, and there are files with {' and '.join(found)}",
            where=f"{sample.file}: {paths[0]}",
            remedy="add the file extension to the paths",
        )
    for folder in _nearby_folders(sample.root):
        if all(sample.exists(path, folder) for path in paths) or _matching_suffixes(paths, folder):
            raise InvalidDataError(
                f"the images are not in {str(sample.root) or '.'!r}, but in {folder!r}",
                where=f"{sample.file}: {paths[0]}",
                remedy=f"set image_root={folder}",
            )
    _check_other_machine(paths, sample)
    return given


def _check_other_machine(paths: Sequence[str], sample: _Sample) -> None:
    """Rejects absolute paths of another machine, if their ends name files here."""
    parts = [PureWindowsPath(path) for path in paths]
    if not all(path.root for path in parts):
        return
    first = parts[0].parts
    for count in range(1, len(first)):
        start = first[:count]
        rest = ["/".join(path.parts[count:]) for path in parts if path.parts[:count] == start]
        if len(rest) == len(paths) and all(map(sample.exists, rest)):
            removed = paths[0][: len(paths[0]) - len(rest[0])]
            raise InvalidDataError(
                f"the paths are those of another machine: {rest[0]} is here, but not {paths[0]}",
                where=sample.file,
                remedy=f"remove {removed} from the beginning of every path",
            )


def _matching_suffixes(paths: Sequence[str], root: Location) -> list[str]:
    """Returns the file extensions with which paths name files; empty if a path has one, or names no file."""
    found: set[str] = set()
    for path in () if any(map(has_image_suffix, paths)) else paths:
        suffixes = [suffix for suffix in sorted(IMAGE_SUFFIXES) if _exists(root, path + suffix)]
        suffixes = suffixes or [
            suffix.upper() for suffix in IMAGE_SUFFIXES if _exists(root, path + suffix.upper())
        ]
        if not suffixes:
            return []
        found.update(suffixes)
    return sorted(found)


def _nearby_folders(root: Location) -> list[Location]:
    """Returns the folders in a folder, and the one that contains it."""
    try:
        names = [name for name in root.children() if name.endswith("/") and not is_hidden(name.rstrip("/"))]
    except OSError:
        return []
    folders = [root / name.rstrip("/") for name in names[:_MAX_FOLDERS]]
    return [*folders, root.absolute().parent]


def _exists(root: Location, path: str) -> bool:
    try:
        locations = [resolve(root, spelling) for spelling in {path, path.replace("\\", "/")} if spelling]
        return any(location.is_local and location.status() is not None for location in locations)
    except (OSError, PipelineError):
        return False
