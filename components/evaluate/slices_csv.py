"""The user's CSV file with the slices of images."""

from collections.abc import Sequence
from pathlib import Path

from imgpipe.components.common.csv_table import read_csv_table
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.storage import parse_location

_PATH = "path"
# (name, value) pairs by path.
Slices = dict[str, tuple[tuple[str, str], ...]]


def read_slices_csv(file: str) -> Slices:
    """Reads a CSV file with the slices of images.

    The first line has the column names: ``path``, and one column per property, e.g. ``path,camera,light``.
    The encoding is UTF-8, with or without a byte order mark. An empty cell gives no slice.

    Args:
        file: The path from the user, local, ``gs://`` or ``s3://``.

    Returns:
        (name, value) pairs by path, in the order of the columns.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: if the file is invalid, or two rows with the same path differ.
        InterruptedRunError: if a remote store cannot be reached.
    """
    with parse_location(file).local_copy() as path:
        return _read(path, file)


def _read(path: Path, file: str) -> Slices:
    slices: Slices = {}
    # Equal rows share one tuple, to save memory.
    known: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
    for line, row in read_csv_table(path, file, lambda header: _check_header(header, file)):
        pairs = tuple((name, value.strip()) for name, value in row.items() if name != _PATH and value.strip())
        pairs = known.setdefault(pairs, pairs)
        if slices.setdefault(row[_PATH], pairs) != pairs:
            raise InvalidDataError(
                f"the path {row[_PATH]!r} has two rows with different slices",
                where=f"{file}, line {line}",
                remedy="remove one of the rows",
            )
    return slices


def _check_header(header: Sequence[str], file: str) -> None:
    if _PATH not in header or len(header) < 2 or len(set(header)) < len(header) or "" in header:
        raise InvalidDataError(
            f"the first line is {','.join(header)!r}; it must list unique column names, including path",
            where=file,
            remedy="start the file with a line such as path,camera,light",
        )
