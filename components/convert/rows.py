"""Rows as they come in: looked at, accepted or rejected, one by one.

Everything is checked here that can be checked without opening an image, so that most mistakes show
within seconds. A row that fails becomes a Rejection and the others go on.
"""

import difflib
import os
import re
import stat
from collections.abc import Callable, Sequence

from imgpipe.components.common.labels import find_label_problem
from imgpipe.components.convert.label_set import names_in
from imgpipe.components.convert.row_table import UNKNOWN_SIZE, Rejection, RowTable
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_BYTES
from imgpipe.components.storage.cloud_storage import StoredObject, is_cloud_path
from imgpipe.components.storage.files import URL, joined

_OBJECT = re.compile(r"gs://[^/]+/.+", re.DOTALL)
# A row whose text is longer is rejected; its path and label are cut off in the list.
_LONGEST_SHOWN = 500


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
        self._label_problem = _label_check(known_labels)
        if multi_label:
            self._label_problem = _each_checked(self._label_problem)

    def __len__(self) -> int:
        """The number of rows that were read."""
        return self._read

    def add_source(self, file: str, root: str) -> int:
        """Adds a file or folder that rows come from and returns its number.

        Args:
            file: As the user gave it.
            root: The folder to which relative paths belong.
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
        found: StoredObject | None = None,
    ) -> None:
        """Accepts a row if nothing is wrong with it, or rejects it.

        A row whose image lies in Cloud Storage is accepted unseen, unless it is given as ``found``:
        ``look_up`` in ``cloud_rows.py`` looks at all of them together.

        Args:
            source: The source's number.
            line: From 1; 0 in a folder.
            path: As the row has it.
            label: The label's name, or the text of a label set.
            use: The split that the row is for; empty = to be drawn.
            problem: What is wrong with the row already.
            found: The object in Cloud Storage.
        """
        self._read += 1
        size, version, checksum = UNKNOWN_SIZE, 0, -1
        if not problem:
            problem = self._label_problem(label)
        if not problem:
            location = joined(self.accepted.sources[source].root, path)
            if found is not None:
                size, version, checksum = found.size, found.generation, found.checksum
                problem = self.size_problem(size)
            elif is_cloud_path(location):
                problem = "" if _OBJECT.fullmatch(location) else "it names no object: write gs://bucket/name"
            else:
                url = URL.match(path)
                if url:
                    problem = f"local paths and gs:// are understood, not {url.group(0)}"
                else:
                    size, version, problem = self._file_status(location)
        if problem:
            self.reject(source, line, path, label, problem)
        else:
            self.accepted.append(
                source, line, path, label, use, size=size, version=version, checksum=checksum
            )

    def reject(self, source: int, line: int, path: str, label: str, reason: str) -> None:
        """Enters a row among the rejected ones; ``add`` has counted it."""
        self.rejected.append(
            Rejection(self.accepted.sources[source].file, line, _shortened(path), _shortened(label), reason)
        )

    def drop(self, number: int, reason: str) -> None:
        """Rejects a row that was accepted."""
        row = self.accepted[number]
        self.accepted.drop(number)
        self.rejected.append(Rejection(row.file, row.line, row.path, row.label, reason))

    def rejected_in_order(self, others: Sequence[Rejection] = ()) -> list[Rejection]:
        """Returns the rejected rows, with others, in the order of the sources and their lines."""
        place = {source.file: number for number, source in enumerate(self.accepted.sources)}
        return sorted([*self.rejected, *others], key=lambda row: (place[row.file], row.line, row.path))

    def size_problem(self, size: int) -> str:
        """Returns what is wrong with the size of an image's file, if anything."""
        if size <= self._max_image_bytes:
            return ""
        return (
            f"the file has {size:,} bytes, more than max_image_bytes={self._max_image_bytes:,}; "
            "scale the image down or raise the limit"
        )

    def _file_status(self, location: str) -> tuple[int, int, str]:
        """Returns size in bytes, time of change in nanoseconds, and what is wrong, if anything."""
        try:
            status = os.stat(location)
        except FileNotFoundError:
            return 0, 0, f"no such file: {_shortened(location)}{_windows_hint(location)}"
        except (OSError, ValueError) as error:
            # ValueError: a NUL character in the path.
            return 0, 0, f"cannot read {_shortened(location)!r}: {getattr(error, 'strerror', None) or error}"
        if not stat.S_ISREG(status.st_mode):
            return 0, 0, f"not a file: {location}"
        return status.st_size, status.st_mtime_ns, self.size_problem(status.st_size)


def _windows_hint(location: str) -> str:
    """Returns a hint if a path that does not exist is written as on Windows."""
    return "; folders are separated by /, not by a backslash" if "\\" in location else ""


def _label_check(known_labels: Sequence[str]) -> Callable[[str], str]:
    """Returns a function from a label to what is wrong with it; each label is looked up once."""
    problems = dict.fromkeys(known_labels, "")

    def problem_of(label: str) -> str:
        if not known_labels:
            return find_label_problem(label)
        if label not in problems:
            near = difflib.get_close_matches(label[:_LONGEST_SHOWN], known_labels, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            problems[label] = f"the label {_shortened(label)!r} is not in the labels file{guess}"
        return problems[label]

    return problem_of


def _each_checked(problem_of: Callable[[str], str]) -> Callable[[str], str]:
    """Returns a function from the text of a label set to what is wrong with the first label that is wrong."""

    def problem_of_set(text: str) -> str:
        return next(filter(None, map(problem_of, names_in(text))), "")

    return problem_of_set


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
