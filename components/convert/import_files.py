"""Reads files that list images: CSV files of path,label rows, and Vertex AI's CSV and JSONL import files."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import find_label_problem, is_valid_unicode, looks_like_utf_16
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.common.tfrecord import starts_with_record
from imgpipe.components.convert.arguments import GROUP
from imgpipe.components.convert.csv_layout import (
    SAMPLE_ROWS,
    USES,
    CsvLayout,
    check_quotes,
    find_layout,
    is_separator_line,
)
from imgpipe.components.convert.label_set import format_label_set
from imgpipe.components.convert.row_table import UNASSIGNED
from imgpipe.components.convert.rows import Rows
from imgpipe.components.images.checking import ImageError, detect_image_format
from imgpipe.components.storage import Location, parse_location

_USE_KEY = "aiplatform.googleapis.com/ml_use"
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# A ZIP archive, which a .xlsx or .ods file is; an old .xls file; gzip.
_WORKBOOK_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b")
# A longer line is not a row: the file has no line ends or is not text.
_MAX_LINE_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class _ParsedRow:
    """A parsed line; ``problem`` says why it is invalid."""

    path: str
    label: str
    use: str = UNASSIGNED
    problem: str = ""
    group: str = ""


def read_import_file(
    rows: Rows,
    file: str,
    use: str = UNASSIGNED,
    *,
    multi_label: bool = False,
    columns: str = "",
    image_root: str = "",
) -> None:
    """Adds the rows of a file that lists images to ``rows``.

    Each line of a CSV file is ``path,label`` or ``ml_use,path,label`` (Vertex AI), or the first line has the
    names of the columns; each line of a .jsonl file is a JSON object in Vertex AI's import format. UTF-8 with
    or without a byte order mark, any line ends; blank lines are skipped. A CSV field in double quotes may
    contain commas and doubled quotes, but no line break. White space around a label is removed.

    Rows with the same text in the column ``group`` stay in one split; a JSON object has its group in
    ``dataItemResourceLabels``.

    With ``multi_label`` a CSV row has any number of labels, one per column (empty ones are skipped), and an
    object any number of ``classificationAnnotations``; duplicate labels count once.

    Args:
        rows: The rows are added to these.
        file: The path of the file, as the user gave it, local, ``gs://`` or ``s3://``.
        use: The split of all rows; empty if the rows specify it or it is to be drawn.
        multi_label: Whether a row may have several labels or none; the rows' labels are then label sets.
        columns: Which columns of a CSV file are used; empty = found from its first rows.
        image_root: The folder of relative paths; empty = the file's folder.

    Raises:
        InvalidArgumentError: for a URL of another kind.
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not UTF-8 text, or has no row, or all rows of a CSV file have another form.
    """
    location = parse_location(file)
    is_json = file.lower().endswith(_JSON_SUFFIXES)
    root = parse_location(image_root) if image_root else location.parent
    source = rows.accepted.add_source(file, root)
    before = len(rows)
    with location.local_copy() as path:
        lines = _lines(file, path)
        layout = None
        if not is_json:
            lines, layout = _examine(lines, file, root, columns, multi_label=multi_label)
        for number, line, problem in lines:
            if problem:
                parsed = _ParsedRow(line, "", UNASSIGNED, problem)
            else:
                parsed = _parse_json(line, multi_label) if is_json else _parse_csv(line, multi_label, layout)
                parsed = _check_use(parsed, use, file)
            rows.add(
                source,
                number,
                parsed.path,
                parsed.label,
                use=parsed.use,
                group=parsed.group,
                problem=parsed.problem,
            )
    if len(rows) == before:
        raise InvalidDataError("the file has no rows", where=file, remedy="write one path,label per line")


_Line = tuple[int, str, str]


def _examine(
    lines: Iterator[_Line], file: str, root: Location, columns: str, *, multi_label: bool
) -> tuple[Iterator[_Line], CsvLayout | None]:
    """Returns the rows and the layout of a CSV file.

    Raises:
        InvalidDataError: if its first rows have another form.
    """
    first = list(islice(lines, SAMPLE_ROWS))
    if first and is_separator_line(first[0][1], file):
        del first[0]
    cells = [_split_cells(line) for _, line, problem in first if not problem]
    sample = [row for row in cells if isinstance(row, list)]
    if not sample:
        check_quotes([line for _, line, problem in first if not problem], file)
    layout = find_layout(sample, file, root, columns, multi_label=multi_label) if sample else None
    if layout is not None:
        log_event("convert_columns", f"convert: {file}: {layout.describe(sample[0])}")
        if layout.header:
            header = next(index for index, line in enumerate(first) if _split_cells(line[1]) == sample[0])
            del first[header]
    return chain(first, lines), layout


def _reject_image(beginning: bytes, file: str) -> None:
    try:
        image_format = detect_image_format(beginning)
    except ImageError:
        return
    raise InvalidDataError(
        f"the file is a {image_format} image, not a list of images",
        where=file,
        remedy="set images to a folder of images, or use a file of path,label lines",
    )


def _lines(file: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """Yields the number, text and problem of every line that is not blank."""
    try:
        with path.open("rb") as start:
            beginning = start.read(4096)
            if beginning.startswith(_WORKBOOK_STARTS):
                raise InvalidDataError(
                    "the file is an Excel workbook or another archive, not CSV",
                    where=file,
                    remedy="save the table as 'CSV UTF-8'",
                )
            if looks_like_utf_16(beginning[:64]):
                raise InvalidDataError("the file is UTF-16", where=file, remedy=_SAVE_AS_UTF_8)
            if starts_with_record(beginning):
                raise InvalidDataError(
                    "the file is a TFRecord file, not a list",
                    where=file,
                    remedy="set training_data_path to it",
                )
            if b"\0" in beginning:
                _reject_image(beginning, file)
        # Bytes that are not UTF-8 become lone surrogates, so only their line is rejected.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as text:
            number = 0
            while line := text.readline(_MAX_LINE_CHARACTERS + 1):
                number += 1
                length = len(line)
                while len(line) > _MAX_LINE_CHARACTERS and not line.endswith("\n"):
                    line = text.readline(_MAX_LINE_CHARACTERS + 1)
                    length += len(line)
                    if not line:
                        break
                if length > _MAX_LINE_CHARACTERS + 1:
                    yield number, "", f"the line has {length:,} characters: not a row"
                elif not line.isascii() and not is_valid_unicode(line):
                    shown = line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                    yield number, shown.strip(), f"the line is not UTF-8; {_SAVE_AS_UTF_8}"
                elif line.strip():
                    yield number, line.rstrip("\n"), ""
    except OSError as error:
        raise MissingInputError(
            f"cannot read the file {file!r}: {error.strerror}", remedy="check the path"
        ) from None


def _check_use(parsed: _ParsedRow, use: str, file: str) -> _ParsedRow:
    """Returns the row with the split of its file; a row of another split is invalid."""
    if not use or parsed.problem:
        return parsed
    if parsed.use not in (UNASSIGNED, use):
        problem = f"the row is for {parsed.use}, but {file} lists {use} images"
        return _ParsedRow(parsed.path, parsed.label, use, problem)
    return replace(parsed, use=use)


def _split_cells(line: str) -> list[str] | str:
    """Returns the cells of a line, or what is wrong with its quotes."""
    # One line at a time: an unclosed quote affects only its own row, not the rest of the file.
    try:
        return next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except csv.Error as error:
        return f"the quotes do not match ({error})"


def _parse_csv(line: str, multi_label: bool, layout: CsvLayout | None) -> _ParsedRow:
    cells = _split_cells(line)
    if isinstance(cells, str):
        return _ParsedRow(line, "", problem=cells)
    if layout is not None:
        return _parse_columns(cells, layout, multi_label)
    if multi_label:
        return _parse_multi_label_cells(cells)
    use = UNASSIGNED
    has_use = cells[0].strip().lower() in USES
    # Spreadsheets leave empty cells at the ends of rows.
    while len(cells) > 2 + has_use and not cells[-1].strip():
        cells.pop()
    if len(cells) > 2 and has_use:
        use = USES[cells[0].strip().lower()]
        cells = cells[1:]
    if len(cells) > 2:
        problem = f"{len(cells)} columns instead of 2 (path,label)"
        if not any(map(_is_number, cells[1:])):
            problem += "; each image has exactly one label unless multi_label=true"
        return _ParsedRow(cells[0], ",".join(cells[1:]), use, problem)
    if len(cells) < 2:
        return _ParsedRow(cells[0], "", use, f"1 column instead of 2 (path,label){_separator_hint(cells[0])}")
    return _check_row(cells[0], cells[1].strip(), use)


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).isdecimal()


def _parse_columns(cells: list[str], layout: CsvLayout, multi_label: bool) -> _ParsedRow:
    """Returns the row in the columns of a layout."""
    cells = [cell.strip() for cell in cells]
    while len(cells) > layout.width and not cells[-1]:
        cells.pop()
    labels = layout.labels or tuple(
        number for number in range(layout.path + 1, len(cells)) if number != layout.group
    )
    needed = max(layout.path, layout.split or 0, *labels, 0) + 1
    if len(cells) < needed or len(cells) > layout.width > 0:
        problem = f"{plural(len(cells), 'column')} instead of {layout.width or needed}"
        return _ParsedRow(cells[0], ",".join(cells[1:]), problem=problem)
    path = cells[layout.path] + (layout.suffix if cells[layout.path] else "")
    names = [cells[number] for number in labels]
    use_text = cells[layout.split].lower() if layout.split is not None else ""
    uses = layout.uses if layout.split is not None else USES
    if use_text not in uses:
        problem = f"the split is {use_text!r}, not train, val or test"
        return _ParsedRow(path, ",".join(names), problem=problem)
    parsed = (
        _check_label_set(path, list(filter(None, names)), uses[use_text])
        if multi_label
        else _check_row(path, names[0], uses[use_text])
    )
    if layout.group is None or layout.group >= len(cells):
        return parsed
    return replace(parsed, group=cells[layout.group])


def _parse_multi_label_cells(cells: list[str]) -> _ParsedRow:
    use = UNASSIGNED
    first = cells[0].strip().lower()
    # An empty first cell means "unassigned" only if a path and a label follow.
    if len(cells) > (1 if first else 2) and first in USES:
        use = USES[first]
        cells = cells[1:]
    elif len(cells) == 1 and _separator_hint(cells[0]):
        return _ParsedRow(cells[0], "", use, f"1 column{_separator_hint(cells[0])}")
    # Spreadsheets pad rows that have fewer labels with empty cells.
    names = [name for name in (cell.strip() for cell in cells[1:]) if name]
    return _check_label_set(cells[0], names, use)


def _separator_hint(cell: str) -> str:
    """Returns a hint if the columns are separated by semicolons or tabs, as in some spreadsheets."""
    for character, name in ((";", "semicolons"), ("\t", "tabs")):
        if character in cell:
            return f"; columns are separated by commas, not {name}"
    return ""


def _parse_json(line: str, multi_label: bool) -> _ParsedRow:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _ParsedRow(line, "", problem=f"the line is not JSON ({error})")
    if not isinstance(content, dict):
        return _ParsedRow(line, "", problem="the line is not a JSON object")
    path = content.get("imageGcsUri")
    annotations = content.get("classificationAnnotations", [content.get("classificationAnnotation")])
    resources = content.get("dataItemResourceLabels")
    use_text = resources.get(_USE_KEY, "") if isinstance(resources, dict) else ""
    if not isinstance(path, str):
        return _ParsedRow(line, "", problem="imageGcsUri is missing or not a string")
    if not isinstance(annotations, list) or (len(annotations) != 1 and not multi_label):
        problem = (
            f"the image has {len(annotations)} annotations; each image has exactly one label unless "
            "multi_label=true"
            if isinstance(annotations, list)
            else "classificationAnnotations is not a list"
        )
        return _ParsedRow(path, "", problem=problem)
    names = [_display_name(annotation) for annotation in annotations]
    texts = [name for name in names if name is not None]
    if len(texts) < len(names):
        problem = "classificationAnnotation.displayName is missing or not a string"
        if multi_label:
            problem += "; for an image without labels, write classificationAnnotations: []"
        return _ParsedRow(path, "", problem=problem)
    label = format_label_set(texts) if multi_label else texts[0]
    if not isinstance(use_text, str) or use_text.strip().lower() not in USES:
        problem = f"{_USE_KEY} is {use_text!r}, not training, validation or test"
        return _ParsedRow(path, label, problem=problem)
    if not (is_valid_unicode(path) and is_valid_unicode(label)):
        return _ParsedRow(ascii(path), ascii(label), problem="the line contains an unpaired surrogate")
    use = USES[use_text.strip().lower()]
    group = resources.get(GROUP, "") if isinstance(resources, dict) else ""
    if not isinstance(group, str) or not is_valid_unicode(group):
        return _ParsedRow(path, label, use, f"the group is {group!r}, not a text")
    parsed = (
        _check_label_set(path, [text.strip() for text in texts], use)
        if multi_label
        else _check_row(path, label.strip(), use)
    )
    return replace(parsed, group=group.strip())


def _display_name(annotation: Any) -> str | None:
    name = annotation.get("displayName") if isinstance(annotation, dict) else None
    return name if isinstance(name, str) else None


def _check_label_set(path: str, names: list[str], use: str) -> _ParsedRow:
    """Returns the row of a path and its labels, with the first problem of a label."""
    label = format_label_set(names)
    if not path.strip():
        return _ParsedRow(path, label, use, "the path is empty")
    problems = (find_label_problem(name) or _check_row(path, name, use).problem for name in names)
    return _ParsedRow(path, label, use, next(filter(None, problems), ""))


def _check_row(path: str, label: str, use: str) -> _ParsedRow:
    problem = ""
    if not path.strip():
        problem = "the path is empty"
    elif not label:
        problem = "the label is empty"
    elif path.strip().lower() in USES and "://" in label:
        problem = "the label is missing after the path"
    elif "\n" in label or "\r" in label:
        problem = "the label has a line break"
    return _ParsedRow(path, label, use, problem)


_SAVE_AS_UTF_8 = "save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
