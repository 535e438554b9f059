"""Label names: line i of the labels file is label i, and class i-1 of the model."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from imgpipe.components.common.errors import InvalidDataError, MissingInputError

# In characters. It is a name on a page, in a log and in each record, not a description.
LONGEST_LABEL = 500


def read_labels_file(path: Path, shown: str = "") -> tuple[str, ...]:
    """Reads one label name a line (UTF-8, with or without a byte order mark).

    Blank lines at the end are ignored; white space around a name is not part of it.

    Args:
        path: The file.
        shown: What errors call it, when ``path`` is a copy; empty = ``path``.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not UTF-8, holds no label, a blank line in between, or a name twice.
    """
    shown = shown or str(path)
    try:
        with path.open("rb") as file:
            if looks_like_utf_16(file.read(64)):
                raise InvalidDataError("the labels file is UTF-16", where=shown, remedy="save it as UTF-8")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingInputError(
            f"cannot read the labels file {shown!r}: {error.strerror}", remedy="check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidDataError(
            f"the labels file is not UTF-8: {error.reason} at byte {error.start}",
            where=shown,
            remedy="save it as UTF-8",
        ) from None
    # Not splitlines(), which also breaks lines at characters that a name may hold, e.g. U+2028.
    names = [line.strip() for line in text.split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InvalidDataError("the labels file is empty", where=shown, remedy="write one label a line")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        problem = label_problem(name)
        if problem:
            raise InvalidDataError(
                problem, where=f"{shown}, line {number}", remedy="write one label a line, and nothing else"
            )
        if not name:
            raise InvalidDataError(
                "blank line between labels",
                where=f"{shown}, line {number}",
                remedy="remove it: line i is label i, so a blank line would be a label without a name",
            )
        if name in seen:
            raise InvalidDataError(
                f"label {name!r} stands twice, first in line {seen[name]}",
                where=f"{shown}, line {number}",
                remedy="keep one of them",
            )
        seen[name] = number
    return tuple(names)


def label_problem(name: str) -> str:
    """Returns what is wrong with a label's name, if anything: so long a text is no name."""
    if len(name) <= LONGEST_LABEL:
        return ""
    return f"the label has {len(name):,} characters, more than {LONGEST_LABEL}"


def labels_text(names: Sequence[str]) -> str:
    """Returns the content of a labels file: one label name a line, with a newline at the end."""
    return "".join(f"{name}\n" for name in names)


def write_labels_file(path: Path, names: Sequence[str]) -> None:
    """Writes one label name a line, UTF-8, with a newline at the end."""
    path.write_text(labels_text(names), encoding="utf-8")


def sorted_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct names in the order of their code points: the label map when none is given."""
    return tuple(sorted(set(names)))


def looks_like_utf_16(start: bytes) -> bool:
    """Whether a text file that begins so is UTF-16, as some editors of Windows write it.

    Without a byte order mark, every second byte of a text that is mostly Latin is zero; UTF-8 has none.
    """
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    most = len(start) // 2 * 0.75
    return len(start) >= 4 and (start[::2].count(0) >= most or start[1::2].count(0) >= most)


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; a file name that is not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
