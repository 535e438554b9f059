"""The user's labels file."""

import json
import re
from collections.abc import Mapping, Sequence

from imgpipe.components.common.characters import describe_difference
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.labels import find_label_problem, normalize_label, read_labels_file
from imgpipe.components.storage import parse_location

_NUMBERED = re.compile(r"(\d+)[\s:;.,)=-]+(\S.*)")
_LABEL_MAP = re.compile(r"item\s*\{?")


def read_user_labels(file: str) -> tuple[str, ...]:
    """Returns the labels in the user's labels file, in Unicode's form NFC.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not a list of distinct labels, one per line.
    """
    with parse_location(file).local_copy() as path:
        if path.is_file():
            _reject_other_formats(path.read_bytes()[:100_000], file)
        names = read_labels_file(path, display_name=file)
    numbered = find_numbered_labels(names)
    lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if problem := find_label_problem(name):
            if numbered:
                raise numbered_labels_error(names[0], next(iter(numbered)))
            raise InvalidDataError(problem, where=f"{file}, line {number}", remedy="remove it")
        first = lines.setdefault(normalize_label(name), number)
        if first != number:
            difference = describe_difference(names[first - 1], name)
            raise InvalidDataError(
                f"label {name!r} occurs twice, first in line {first}: {difference}",
                where=f"{file}, line {number}",
                remedy="remove one of them",
            )
    return tuple(lines)


def _reject_other_formats(start: bytes, file: str) -> None:
    text = start.decode("utf-8", "replace").strip()
    remedy = "write one label per line, in the order of their numbers, and nothing else"
    if _LABEL_MAP.match(text) and "}" in text:
        raise InvalidDataError("the labels file is a label map (.pbtxt)", where=file, remedy=remedy)
    if text.startswith(("{", "[")):
        try:
            is_json = bool(json.loads(text))
        except (ValueError, RecursionError):
            is_json = False
        if is_json:
            raise InvalidDataError("the labels file is JSON", where=file, remedy=remedy)


def find_numbered_labels(names: Sequence[str]) -> Mapping[str, str]:
    """Returns the lines of a labels file by their text after the number; empty unless all are numbered."""
    matches = [_NUMBERED.fullmatch(name) for name in names]
    if not names or not all(matches):
        return {}
    numbers = [int(match[1]) for match in matches if match]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return {}
    return {match[2]: match[0] for match in matches if match}


def numbered_labels_error(line: str, label: str) -> InvalidDataError:
    """Returns the error for a labels file whose lines begin with numbers."""
    return InvalidDataError(
        f"the lines of the labels file begin with numbers: {line!r}",
        remedy=f"remove the numbers, e.g. write {label!r}: line i names label i",
    )
