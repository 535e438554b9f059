"""Checks rows while they are read, and accepts or rejects each.

Everything that can be checked without opening an image is checked here, so that most mistakes are reported
within seconds. An invalid row becomes a Rejection and does not stop the others.
"""

import difflib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from imgpipe.components.common.characters import describe_difference, find_invisible, look_alike_key
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.labels import find_label_problem, normalize_label
from imgpipe.components.convert.label_set import format_label_set, parse_label_set
from imgpipe.components.convert.labels_file import find_numbered_labels, numbered_labels_error
from imgpipe.components.convert.row_table import UNKNOWN, Rejection, RowTable
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_BYTES
from imgpipe.components.storage import FileStatus, Location, resolve

# Longer paths and labels are truncated in messages and in the list of rejected rows.
_MAX_TEXT_CHARACTERS = 500
# So many missing files are compared with the files in their folder.
_MAX_HINTS = 1_000


class Rows:
    """The rows of all sources, in order, accepted and rejected.

    Args:
        known_labels: The allowed labels; empty = any.
        max_image_bytes: Rows with a larger image file are rejected.
        multi_label: Whether the rows' labels are label sets.
    """

    def __init__(
        self,
        known_labels: Sequence[str] = (),
        *,
        max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
        multi_label: bool = False,
    ) -> None:
        self.accepted = RowTable()
        self.rejected: list[Rejection] = []
        # The number of rows that a person decided to leave out.
        self.dropped = 0
        self._read = 0
        self._max_image_bytes = max_image_bytes
        self._names_in = lru_cache(maxsize=8)(_names_in)
        # Lists repeat rows to balance classes; about 300 bytes for each file.
        self._status = lru_cache(maxsize=10_000)(self._find_file)
        self._label_problem = _label_checker(known_labels)
        self._normalize = _normalize_label_set if multi_label else normalize_label
        if multi_label:
            self._label_problem = _label_set_checker(self._label_problem)

    def __len__(self) -> int:
        """The number of rows read."""
        return self._read

    def add(
        self,
        source: int,
        line: int,
        path: str,
        label: str,
        *,
        use: str = "",
        group: str = "",
        problem: str = "",
        status: FileStatus | None = None,
    ) -> None:
        """Accepts a valid row or rejects an invalid one.

        A row with a remote image and no ``status`` is accepted for now; ``check_remote_files`` checks these
        rows in bulk.

        Args:
            source: The source's number.
            line: The line of the file, from 1; 0 in a folder.
            path: The path as written in the row.
            label: The label's name, or the text of a label set.
            use: The split; empty = to be drawn.
            group: The name of its group, whose rows stay in one split; empty = none.
            problem: Why the row is already known to be invalid.
            status: The status of the image file, if it is known.
        """
        self._read += 1
        if not problem:
            label = self._normalize(label)
            problem = self._label_problem(label)
        if not problem and status is None:
            path, status, problem = self._status(source, path)
        if not problem and status is not None:
            problem = self.find_size_problem(status.size)
        if problem:
            file = self.accepted.sources[source].file
            self.rejected.append(Rejection(file, line, _shorten(path), _shorten(label), problem))
        else:
            self.accepted.append(source, line, path, label, use, group=group, status=status or UNKNOWN)

    def drop(self, number: int, reason: str) -> None:
        """Rejects a row that was accepted."""
        row = self.accepted[number]
        self.accepted.drop(number)
        self.rejected.append(Rejection(row.file, row.line, row.path, row.label, reason))

    def leave_out(self, number: int) -> None:
        """Leaves out a row that was accepted, because a person decided so."""
        self.accepted.drop(number)
        self.dropped += 1

    def sort_rejections(self, others: Sequence[Rejection] = ()) -> list[Rejection]:
        """Returns the rejected rows, including ``others``, ordered by source and line."""
        rank = {source.file: number for number, source in enumerate(self.accepted.sources)}
        return sorted([*self.rejected, *others], key=lambda row: (rank[row.file], row.line, row.path))

    def find_size_problem(self, size: int) -> str:
        """Returns why an image file of this size is rejected; empty if it is not."""
        if size <= self._max_image_bytes:
            return ""
        return (
            f"the file has {size:,} bytes, more than max_image_bytes={self._max_image_bytes:,}; "
            "scale the image down or raise max_image_bytes"
        )

    def _find_file(self, source: int, path: str) -> tuple[str, FileStatus | None, str]:
        """Returns the path and status of a local file, and the problem if it cannot be used."""
        try:
            location = resolve(self.accepted.sources[source].root, path)
        except InvalidArgumentError as error:
            return path, None, f"{error.problem}; {error.remedy}"
        if not location.is_local:
            return path, None, "" if location.name else f"{location} names no file"
        try:
            status = location.status()
            if status is None:
                for other in _spellings(path):
                    found = resolve(self.accepted.sources[source].root, other).status()
                    if found is not None:
                        return other, found, ""
        except OSError as error:
            return path, None, f"cannot read {_shorten(str(location))!r}: {error.strerror}"
        if status is None:
            hint = "; separate folders with /, not with a backslash" if "\\" in path else ""
            if character := find_invisible(path):
                hint += f"; the path contains an invisible character, {character}"
            if len(self.rejected) < _MAX_HINTS:
                hint += _describe_similar(location.name, self._names_in(location.parent))
            return path, None, f"no such file: {_shorten(str(location))}{hint}"
        return path, status, ""


def _spellings(path: str) -> list[str]:
    """Returns other spellings of the path of a missing file."""
    # Windows separates folders with backslashes.
    paths = [path.replace("\\", "/")] if "\\" in path else []
    if not path.isascii():
        # macOS writes file names in another form than most editors.
        paths += [unicodedata.normalize(form, name) for name in (path, *paths) for form in ("NFC", "NFD")]
    return paths


def _describe_similar(name: str, names: Mapping[str, str]) -> str:
    """Returns a hint if a folder has a file of a name that looks alike, or differs in case."""
    found = names.get(look_alike_key(name).casefold(), name)
    if found == name:
        return ""
    if look_alike_key(found) == look_alike_key(name):
        return f"; there is {found!r}, but {describe_difference(name, found)}"
    return f"; there is {found!r}, which differs in upper and lower case"


def _names_in(folder: Location) -> dict[str, str]:
    """Returns the names in a folder by what they look like, in lower case."""
    try:
        return {look_alike_key(name).casefold(): name for name in folder.children()}
    except OSError:
        return {}


def _label_checker(known_labels: Sequence[str]) -> Callable[[str], str]:
    """Returns a function that returns a label's problem or an empty string; results are cached."""
    problems = dict.fromkeys(known_labels, "")
    numbered = find_numbered_labels(known_labels)
    by_key = {look_alike_key(name): name for name in known_labels}

    def find_problem(label: str) -> str:
        if not known_labels:
            return find_label_problem(label)
        if label not in problems:
            if label in numbered:
                raise numbered_labels_error(numbered[label], label)
            hint = ""
            if same := by_key.get(look_alike_key(label)):
                hint = f"; it looks like {same!r}, but {describe_difference(label, same)}"
            elif matches := difflib.get_close_matches(label[:_MAX_TEXT_CHARACTERS], known_labels, n=1):
                hint = f"; did you mean {matches[0]!r}?"
            problems[label] = f"the label {_shorten(label)!r} is not in the labels file{hint}"
        return problems[label]

    return find_problem


def _normalize_label_set(text: str) -> str:
    return text if text.isascii() else format_label_set(map(normalize_label, parse_label_set(text)))


def _label_set_checker(find_problem: Callable[[str], str]) -> Callable[[str], str]:
    """Returns a function that returns the first problem of a label set's labels or an empty string."""
    return lambda text: next(filter(None, map(find_problem, parse_label_set(text))), "")


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARACTERS else text[:_MAX_TEXT_CHARACTERS] + "..."
