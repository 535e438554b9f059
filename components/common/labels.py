"""Label names: line i of the labels file is label i, and class i-1 of the model."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from imgpipe.components.common.characters import describe_difference, find_invisible, look_alike_key
from imgpipe.components.common.errors import InvalidDataError, must_be_readable

# A label is a name in reports, logs and every record, not a description.
MAX_LABEL_CHARACTERS = 500
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
_LIST = re.compile(r"""\[(['"]).*\1\]""")
# In lower case; as pandas and spreadsheets write them.
_MISSING = frozenset(["nan", "null", "<na>", "n/a", "#n/a", "#value!", "#ref!", "#name?"])
# The file in the folder assets of a SavedModel.
LABELS_ASSET = "labels.txt"


def read_labels_file(path: Path, display_name: str = "") -> tuple[str, ...]:
    """Reads a file with one label name per line (UTF-8, with or without a byte order mark).

    Blank lines at the end are ignored; white space around a name is removed.

    Args:
        path: The file.
        display_name: The file's name in error messages, if ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not UTF-8, or has no label, a blank line between labels, or a duplicate.
    """
    display_name = display_name or str(path)

    def error(problem: str, remedy: str, line: int = 0) -> InvalidDataError:
        where = f"{display_name}, line {line}" if line else display_name
        return InvalidDataError(problem, where=where, remedy=remedy)

    try:
        with must_be_readable(f"the labels file {display_name!r}"):
            content = path.read_bytes()
        if looks_like_utf_16(content[:64]):
            raise error("the labels file is UTF-16", "save it as UTF-8")
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as failure:
        problem = f"the labels file is not UTF-8: {failure.reason} at byte {failure.start}"
        raise error(problem, "save it as UTF-8") from None
    # Not splitlines(), which also splits at characters that a name may contain, e.g. U+2028.
    names = [line.strip() for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise error("the labels file is empty", "write one label per line")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if problem := _find_length_problem(name):
            raise error(problem, "write one label per line, and nothing else", number)
        if not name:
            remedy = "remove it: line i is label i, so a blank line is a label without a name"
            raise error("blank line between labels", remedy, number)
        if name in seen:
            problem = f"label {name!r} occurs twice, first in line {seen[name]}"
            raise error(problem, "remove one of them", number)
        seen[name] = number
    return tuple(names)


def find_label_problem(name: str) -> str:
    """Returns why a text is not a valid label, or an empty string if it is valid."""
    if character := "" if name.isprintable() else find_invisible(name):
        return f"the label {name!r} contains an invisible character, {character}"
    return _find_length_problem(name)


def _find_length_problem(name: str) -> str:
    if len(name) <= MAX_LABEL_CHARACTERS:
        return ""
    return f"the label has {len(name):,} characters, more than {MAX_LABEL_CHARACTERS}"


def normalize_label(name: str) -> str:
    """Returns a label in Unicode's form NFC: macOS writes the names of folders in another form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def check_look_alikes(names: Iterable[str], where: str) -> list[tuple[str, str]]:
    """Returns the pairs of labels that differ only in upper and lower case.

    Raises:
        InvalidDataError: if two different labels look the same.
    """
    by_key: dict[str, str] = {}
    by_folded: dict[str, str] = {}
    pairs = []
    for name in names:
        key = look_alike_key(name)
        other = by_key.setdefault(key, name)
        if other != name:
            raise InvalidDataError(
                f"the labels {other!r} and {name!r} look alike, but {describe_difference(other, name)}",
                where=where,
                remedy="spell them alike",
            )
        other = by_folded.setdefault(key.casefold(), name)
        if other != name:
            pairs.append((other, name))
    return pairs


def find_equal_numbers(names: Iterable[str]) -> list[str]:
    """Returns labels that are the same number as another one, such as 1, 1.0 and 01."""
    by_value: dict[float, list[str]] = {}
    for name in names:
        if _NUMBER.fullmatch(name):
            by_value.setdefault(float(name), []).append(name)
    return [name for equal in by_value.values() if len(equal) > 1 for name in equal]


def find_combined(names: Sequence[str]) -> list[str]:
    """Returns labels that consist of other labels, as ``cat|dog``, or are a list, as ``['cat']``."""
    known = set(names)
    combined = []
    for name in names:
        parts = [part.strip() for part in re.split(r"[|;,]", name)]
        if _LIST.fullmatch(name) or (len(parts) > 1 and known.issuperset(parts)):
            combined.append(name)
    return combined


def find_missing(names: Iterable[str]) -> list[str]:
    """Returns labels that tables have in place of a missing value."""
    return [name for name in names if name.lower() in _MISSING]


def format_labels(names: Sequence[str]) -> str:
    """Returns the content of a labels file: one label name per line, with a newline at the end."""
    return "".join(f"{name}\n" for name in names)


def write_labels_file(path: Path, names: Sequence[str]) -> None:
    """Writes one label name per line, UTF-8, with a newline at the end."""
    path.write_text(format_labels(names), encoding="utf-8")


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct names sorted by code point: the default label map."""
    return tuple(sorted(set(names)))


def looks_like_utf_16(start: bytes) -> bool:
    """Whether a text file is UTF-16, as some Windows editors write it, judging by its first bytes.

    Without a byte order mark, every second byte of mostly Latin text is zero; UTF-8 text has no zero bytes.
    """
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    minimum = len(start) // 2 * 0.75
    return len(start) >= 4 and (start[::2].count(0) >= minimum or start[1::2].count(0) >= minimum)


def is_valid_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8, unlike the name of a file that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
