"""The file by which a user says what divides the images besides their labels."""

import csv
from pathlib import Path

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.storage import parse_location

_PATH = "path"
# By path: (name, value) pairs.
Slices = dict[str, tuple[tuple[str, str], ...]]


def read_slices_csv(file: str) -> Slices:
    """Reads a CSV file that says to which slices images belong.

    Its first line names the columns: ``path``, and one for each thing that divides the images, e.g.
    ``path,camera,light``. UTF-8, with or without a byte order mark. An empty cell says nothing of the image.

    Args:
        file: As the user gave it, local or ``gs://``.

    Returns:
        By path, as the rows have it: name and value of each slice, in the order of the columns.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: if it is not of this form, or two rows of a path contradict each other.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    with parse_location(file).local_copy() as path:
        return _read(path, file)


def _read(path: Path, file: str) -> Slices:
    slices: Slices = {}
    # One text for each value, however many images have it.
    known: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text, strict=True)
            header = [name.strip() for name in next(rows, [])]
            _check_header(header, file)
            place = header.index(_PATH)
            for row in rows:
                if not row:
                    continue
                where = f"{file}, line {rows.line_num}"
                if len(row) != len(header):
                    raise InvalidDataError(
                        f"{len(row)} columns instead of {len(header)} ({','.join(header)})",
                        where=where,
                        remedy="give each row a value for each column, or an empty one",
                    )
                pairs = tuple(
                    (name, value.strip())
                    for name, value in zip(header, row, strict=True)
                    if name != _PATH and value.strip()
                )
                pairs = known.setdefault(pairs, pairs)
                if slices.setdefault(row[place], pairs) != pairs:
                    raise InvalidDataError(
                        f"the path {row[place]!r} stands there twice, with other slices",
                        where=where,
                        remedy="keep one of the two rows",
                    )
    except OSError as error:
        raise MissingInputError(
            f"cannot read the file {file!r}: {error.strerror}", remedy="check the path"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidDataError(
            f"the file is no CSV in UTF-8: {error}", where=file, remedy="save it as CSV, UTF-8"
        ) from None
    return slices


def _check_header(header: list[str], file: str) -> None:
    if _PATH not in header or len(header) < 2 or len(set(header)) < len(header) or "" in header:
        raise InvalidDataError(
            f"the first line is {','.join(header)!r}; it must name the columns, path among them, each once",
            where=file,
            remedy="begin the file with a line such as path,camera,light",
        )
