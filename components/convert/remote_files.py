"""Checks the remote files of rows in bulk."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.convert.rows import Rows
from imgpipe.components.storage import PARALLEL_DOWNLOADS, FileStatus, Location, ObjectLocation

# One request lists 1,000 objects of a folder; for fewer rows than this, one request per row is cheaper.
_MIN_ROWS_TO_LIST = 20


def check_remote_files(rows: Rows) -> None:
    """Sets the status of the rows' remote files, and rejects rows without a file.

    Raises:
        InterruptedRunError: if the store cannot be reached.
    """
    table = rows.accepted
    numbers_in: dict[Location, list[int]] = defaultdict(list)
    for number in map(int, table.rows_without_status()):
        numbers_in[table.location(number).parent].append(number)
    if not numbers_in:
        return
    progress = Progress("convert", sum(map(len, numbers_in.values())), "objects checked")
    not_listed: list[int] = []
    for folder, numbers in numbers_in.items():
        if len(numbers) < _MIN_ROWS_TO_LIST or not _check_by_listing(rows, folder, numbers):
            not_listed += numbers
            continue
        progress.add(len(numbers))
    statuses = map_in_order(_status, (table.location(number) for number in not_listed), PARALLEL_DOWNLOADS)
    for number, (status, problem) in zip(not_listed, statuses, strict=True):
        _set_status(rows, number, status, problem)
        progress.add(1)


def _check_by_listing(rows: Rows, folder: Location, numbers: Sequence[int]) -> bool:
    """Returns False if listing is denied: the objects may still be readable."""
    assert isinstance(folder, ObjectLocation)  # noqa: S101 - the status of local files is known
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        numbers_of[rows.accepted.location(number).name].append(number)
    try:
        listing = folder.list_files(first=min(numbers_of), last=max(numbers_of), recursive=False)
        for name, status in listing:
            for number in numbers_of.pop(name, ()):
                _set_status(rows, number, status, "")
    except MissingInputError:
        return False
    for number in chain.from_iterable(numbers_of.values()):
        _set_status(rows, number, None, "")
    return True


def _status(location: Location) -> tuple[FileStatus | None, str]:
    try:
        return location.status(), ""
    except MissingInputError as error:
        return None, error.problem


def _set_status(rows: Rows, number: int, status: FileStatus | None, problem: str) -> None:
    if status is None:
        rows.drop(number, problem or f"there is no object {rows.accepted.location(number)!r}")
    elif too_large := rows.find_size_problem(status.size):
        rows.drop(number, too_large)
    else:
        rows.accepted.set_status(number, status)
