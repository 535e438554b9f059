"""Rows as they come in: looked at, accepted or rejected, one by one.

Everything is checked here that can be checked without opening an image, so that most mistakes show
within seconds. A row that fails becomes a Rejection and the others go on.
"""

import difflib
from collections.abc import Callable, Sequence

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.labels import find_label_problem
from imgpipe.components.convert.label_set import parse_label_set
from imgpipe.components.convert.row_table import UNKNOWN, Rejection, RowTable
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_BYTES
from imgpipe.components.storage import FileStatus, Location, resolve

# A row whose text is longer is rejected; its path and label are cut off in the list.
_MAX_TEXT_CHARACTERS = 500


class Rows:
    """The rows of all sources, in their order, apart from those that are rejected.

    Args:
        known_labels: The labels that are allowed; empty = any.
        max_image_bytes: A row whose image file is larger is rejected.
        multi_label: Whether the rows' labels are texts of label sets.
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
        self._read = 0
        self._max_image_bytes = max_image_bytes
        self._label_problem = _label_checker(known_labels)
        if multi_label:
            self._label_problem = _label_set_checker(self._label_problem)

    def __len__(self) -> int:
        """The number of rows that were read."""
        return self._read

    def add_source(self, file: str, root: Location) -> int:
        """Adds a file or folder that rows come from and returns its number.

        Args:
            file: As the user gave it.
            root: The folder of relative paths.
        """
        return self.accepted.add_source(file, root)

    def add(
        self,
        source: int,
        line: int,
        path: str,
        label: str,
        *,
        use: str = "",
        problem: str = "",
        status: FileStatus | None = None,
    ) -> None:
        """Accepts a row if nothing is wrong with it, or rejects it.

        A row with a remote image and no ``status`` is accepted for now: ``check_remote_files`` checks all of
        these rows together.

        Args:
            source: The source's number.
            line: From 1; 0 in a folder.
            path: As the row has it.
            label: The label's name, or the text of a label set.
            use: The split that the row is for; empty = to be drawn.
            problem: What is wrong with the row already.
            status: Of the image's file, if it is known.
        """
        self._read += 1
        problem = problem or self._label_problem(label)
        if not problem and status is None:
            status, problem = self._status(source, path)
        if not problem and status is not None:
            problem = self.find_size_problem(status.size)
        if problem:
            self.reject(source, line, path, label, problem)
        else:
            self.accepted.append(source, line, path, label, use, status=status or UNKNOWN)

    def reject(self, source: int, line: int, path: str, label: str, reason: str) -> None:
        """Enters a row among the rejected ones; ``add`` has counted it."""
        self.rejected.append(
            Rejection(self.accepted.sources[source].file, line, _shorten(path), _shorten(label), reason)
        )

    def drop(self, number: int, reason: str) -> None:
        """Rejects a row that was accepted."""
        row = self.accepted[number]
        self.accepted.drop(number)
        self.rejected.append(Rejection(row.file, row.line, row.path, row.label, reason))

    def sort_rejections(self, others: Sequence[Rejection] = ()) -> list[Rejection]:
        """Returns the rejected rows, with others, in the order of the sources and their lines."""
        place = {source.file: number for number, source in enumerate(self.accepted.sources)}
        return sorted([*self.rejected, *others], key=lambda row: (place[row.file], row.line, row.path))

    def find_size_problem(self, size: int) -> str:
        """Returns what is wrong with the size of an image's file, if anything."""
        if size <= self._max_image_bytes:
            return ""
        return (
            f"the file has {size:,} bytes, more than max_image_bytes={self._max_image_bytes:,}; "
            "scale the image down or raise the limit"
        )

    def _status(self, source: int, path: str) -> tuple[FileStatus | None, str]:
        """Returns the status of a local file, and what is wrong, if anything."""
        try:
            location = resolve(self.accepted.sources[source].root, path)
        except InvalidArgumentError as error:
            return None, f"{error.problem}; {error.remedy}"
        if not location.is_local:
            return None, "" if location.name else f"{location} names no file"
        try:
            status = location.status()
        except OSError as error:
            return None, f"cannot read {_shorten(str(location))!r}: {error.strerror}"
        if status is None:
            return None, f"no such file: {_shorten(str(location))}{_backslash_hint(path)}"
        return status, ""


def _backslash_hint(path: str) -> str:
    """Returns a hint if a path that does not exist is written as on Windows."""
    return "; folders are separated by /, not by a backslash" if "\\" in path else ""


def _label_checker(known_labels: Sequence[str]) -> Callable[[str], str]:
    """Returns a function from a label to what is wrong with it; each label is looked up once."""
    problems = dict.fromkeys(known_labels, "")

    def find_problem(label: str) -> str:
        if not known_labels:
            return find_label_problem(label)
        if label not in problems:
            near = difflib.get_close_matches(label[:_MAX_TEXT_CHARACTERS], known_labels, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            problems[label] = f"the label {_shorten(label)!r} is not in the labels file{guess}"
        return problems[label]

    return find_problem


def _label_set_checker(find_problem: Callable[[str], str]) -> Callable[[str], str]:
    """Returns a function from the text of a label set to what is wrong with the first label that is wrong."""

    def find_set_problem(text: str) -> str:
        return next(filter(None, map(find_problem, parse_label_set(text))), "")

    return find_set_problem


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARACTERS else text[:_MAX_TEXT_CHARACTERS] + "..."
