"""Reads files that list images: CSV files of path,label rows, and Vertex AI's CSV and JSONL import files."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import find_label_problem, is_valid_unicode, looks_like_utf_16
from imgpipe.components.common.tfrecord import starts_with_record
from imgpipe.components.convert.label_set import format_label_set
from imgpipe.components.convert.row_table import UNASSIGNED, Rejection
from imgpipe.components.convert.rows import Rows
from imgpipe.components.images.checking import ImageError, detect_image_format
from imgpipe.components.storage import parse_location

# Vertex AI uses training, validation, test; its predecessor used TRAIN, VALIDATION, TEST, UNASSIGNED.
_USES = {
    "training": TRAIN,
    "train": TRAIN,
    "validation": VALIDATION,
    "validate": VALIDATION,
    "test": TEST,
    "unassigned": UNASSIGNED,
    "": UNASSIGNED,
}
_USE_KEY = "aiplatform.googleapis.com/ml_use"
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# A longer line is not a row: the file has no line ends or is not text.
_MAX_LINE_CHARACTERS = 1_000_000
_LABEL_HEADERS = ("label", "labels", "class")


@dataclass(frozen=True)
class _ParsedRow:
    """A parsed line; ``problem`` says why it is invalid."""

    path: str
    label: str
    use: str = UNASSIGNED
    problem: str = ""


def read_import_file(rows: Rows, file: str, use: str = UNASSIGNED, *, multi_label: bool = False) -> None:
    """Adds the rows of a file that lists images to ``rows``.

    Each line of a CSV file is ``path,label`` or ``ml_use,path,label`` (Vertex AI), without a header; each
    line of a .jsonl file is a JSON object in Vertex AI's import format. UTF-8 with or without a byte order
    mark, any line ends; blank lines are skipped. A CSV field in double quotes may contain commas and doubled
    quotes, but no line break. Relative paths are relative to the file's folder. White space around a label
    is removed.

    With ``multi_label`` a CSV row has any number of labels, one per column (empty ones are skipped), and an
    object any number of ``classificationAnnotations``; duplicate labels count once.

    Args:
        rows: The rows are added to these.
        file: The path of the file, as the user gave it, local or ``gs://``.
        use: The split of all rows; empty if the rows specify it or it is to be drawn.
        multi_label: Whether a row may have several labels or none; the rows' labels are then label sets.

    Raises:
        InvalidArgumentError: for a URL that is not ``gs://``.
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not UTF-8 text, or has no row.
    """
    location = parse_location(file)
    parse = _parse_json if file.lower().endswith(_JSON_SUFFIXES) else _parse_csv
    source = rows.accepted.add_source(file, location.parent)
    before = len(rows)
    with location.local_copy() as path:
        for number, line, problem in _lines(file, path):
            parsed = (
                _ParsedRow(line, "", UNASSIGNED, problem)
                if problem
                else _check_use(parse(line, multi_label), use, file)
            )
            rejected_before = len(rows.rejected)
            rows.add(source, number, parsed.path, parsed.label, use=parsed.use, problem=parsed.problem)
            first_label = parsed.label.partition(",")[0].strip().lower()
            if number == 1 and len(rows.rejected) > rejected_before and first_label in _LABEL_HEADERS:
                reason = "this looks like a header line, which is not allowed"
                rows.rejected[-1] = Rejection(file, number, parsed.path, parsed.label, reason)
    if len(rows) == before:
        raise InvalidDataError(
            "the file has no rows", where=file, remedy="write one path,label per line, without a header"
        )


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
    return _ParsedRow(parsed.path, parsed.label, use)


def _parse_csv(line: str, multi_label: bool) -> _ParsedRow:
    # One line at a time: an unclosed quote affects only its own row, not the rest of the file.
    try:
        cells = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except csv.Error as error:
        return _ParsedRow(line, "", problem=f"the quotes do not match ({error})")
    if multi_label:
        return _parse_multi_label_cells(cells)
    use = UNASSIGNED
    if len(cells) > 2 and cells[0].strip().lower() in _USES:
        use = _USES[cells[0].strip().lower()]
        cells = cells[1:]
    if len(cells) > 2:
        problem = (
            f"{len(cells)} columns instead of 2 (path,label); each image has exactly one label unless "
            "multi_label=true"
        )
        return _ParsedRow(cells[0], ",".join(cells[1:]), use, problem)
    if len(cells) < 2:
        return _ParsedRow(cells[0], "", use, f"1 column instead of 2 (path,label){_separator_hint(cells[0])}")
    return _check_row(cells[0], cells[1].strip(), use)


def _parse_multi_label_cells(cells: list[str]) -> _ParsedRow:
    use = UNASSIGNED
    first = cells[0].strip().lower()
    # An empty first cell means "unassigned" only if a path and a label follow.
    if len(cells) > (1 if first else 2) and first in _USES:
        use = _USES[first]
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
    if not isinstance(use_text, str) or use_text.strip().lower() not in _USES:
        problem = f"{_USE_KEY} is {use_text!r}, not training, validation or test"
        return _ParsedRow(path, label, problem=problem)
    if not (is_valid_unicode(path) and is_valid_unicode(label)):
        return _ParsedRow(ascii(path), ascii(label), problem="the line contains an unpaired surrogate")
    if multi_label:
        return _check_label_set(path, [text.strip() for text in texts], _USES[use_text.strip().lower()])
    return _check_row(path, label.strip(), _USES[use_text.strip().lower()])


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
    elif path.strip().lower() in _USES and "://" in label:
        problem = "the label is missing after the path"
    elif "\n" in label or "\r" in label:
        problem = "the label has a line break"
    return _ParsedRow(path, label, use, problem)


_SAVE_AS_UTF_8 = "save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
