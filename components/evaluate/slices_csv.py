"""The user's CSV file with the slices of images."""

import csv
from pathlib import Path

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.plural import plural
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
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text, strict=True)
            header = [name.strip() for name in next(rows, [])]
            _check_header(header, file)
            path_column = header.index(_PATH)
            for row in rows:
                if not row:
                    continue
                where = f"{file}, line {rows.line_num}"
                if len(row) != len(header):
                    raise InvalidDataError(
                        f"{plural(len(row), 'column')} instead of {len(header)} ({','.join(header)})",
                        where=where,
                        remedy="write one value per column in each row; a value may be empty",
                    )
                pairs = tuple(
                    (name, value.strip())
                    for name, value in zip(header, row, strict=True)
                    if name != _PATH and value.strip()
                )
                pairs = known.setdefault(pairs, pairs)
                if slices.setdefault(row[path_column], pairs) != pairs:
                    raise InvalidDataError(
                        f"the path {row[path_column]!r} has two rows with different slices",
                        where=where,
                        remedy="remove one of the rows",
                    )
    except OSError as error:
        raise MissingInputError(
            f"cannot read the file {file!r}: {error.strerror}", remedy="check the path"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidDataError(
            f"the file is not CSV in UTF-8: {error}", where=file, remedy="save it as CSV in UTF-8"
        ) from None
    return slices


def _check_header(header: list[str], file: str) -> None:
    if _PATH not in header or len(header) < 2 or len(set(header)) < len(header) or "" in header:
        raise InvalidDataError(
            f"the first line is {','.join(header)!r}; it must list unique column names, including path",
            where=file,
            remedy="start the file with a line such as path,camera,light",
        )
