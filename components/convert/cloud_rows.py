"""Looks at the objects of Cloud Storage that rows name, many at a time."""

from collections import defaultdict

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.convert.rows import Rows
from imgpipe.components.storage.cloud_storage import (
    DOWNLOADS_AT_ONCE,
    StoredObject,
    bucket_and_name,
    list_objects,
    object_at,
)
from imgpipe.components.storage.files import folder_of

# One request lists 1,000 objects of a folder; for fewer rows than this it is cheaper to ask for each.
_LISTED_FROM = 20


def look_up(rows: Rows) -> None:
    """Enters size, generation and checksum of the objects that rows name; rows without one are rejected.

    Raises:
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    table = rows.accepted
    numbers_in: dict[str, list[int]] = defaultdict(list)
    for number in table.unknown():
        numbers_in[folder_of(table.location(int(number)))].append(int(number))
    if not numbers_in:
        return
    progress = Progress("convert", sum(map(len, numbers_in.values())), "objects looked up")
    singly: list[int] = []
    done = 0
    for folder, numbers in numbers_in.items():
        if len(numbers) < _LISTED_FROM or not _look_up_by_listing(rows, folder, numbers):
            singly += numbers
            continue
        done += len(numbers)
        progress.update(done)
    for number, (found, problem) in zip(
        singly,
        map_in_order(_status, (table.location(number) for number in singly), DOWNLOADS_AT_ONCE),
        strict=True,
    ):
        _enter(rows, number, found, problem)
        done += 1
        progress.update(done)


def _look_up_by_listing(rows: Rows, folder: str, numbers: list[int]) -> bool:
    """Returns False if the folder may not be listed: its objects may be readable all the same."""
    table = rows.accepted
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        numbers_of[bucket_and_name(table.location(number))[1]].append(number)
    try:
        listing = list_objects(folder + "/", first=min(numbers_of), last=max(numbers_of), within_folder=True)
        for found in listing:
            for number in numbers_of.pop(found.name, ()):
                _enter(rows, number, found, "")
    except MissingInputError:
        return False
    for missing in numbers_of.values():
        for number in missing:
            _enter(rows, number, None, "")
    return True


def _status(uri: str) -> tuple[StoredObject | None, str]:
    try:
        return object_at(uri), ""
    except MissingInputError as error:
        return None, error.problem


def _enter(rows: Rows, number: int, found: StoredObject | None, problem: str) -> None:
    if found is None:
        rows.drop(number, problem or f"there is no object {rows.accepted.location(number)!r}")
        return
    problem = rows.size_problem(found.size)
    if problem:
        rows.drop(number, problem)
        return
    rows.accepted.set_status(number, found.size, found.generation, found.checksum)
