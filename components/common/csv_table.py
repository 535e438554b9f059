"""CSV files that people write, with a line of column names."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imgpipe.components.common.errors import InvalidDataError, must_be_readable
from imgpipe.components.common.plural import plural


def read_csv_table(
    path: Path,
    file: str,
    check_header: Callable[[Sequence[str]], None],
    find_delimiter: Callable[[str], str] = lambda _: ",",
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line number and the values by column of each row; empty rows are left out.

    The encoding is UTF-8, with or without a byte order mark.

    Args:
        path: The local file.
        file: Its name in error messages.
        check_header: Raises InvalidDataError for wrong names of columns.
        find_delimiter: Returns what separates the columns, from the first line.

    Raises:
        MissingInputError: if the file cannot be read.
        InvalidDataError: naming the line, if the file is not CSV or a row has another number of columns.
    """
    try:
        with must_be_readable(f"the file {file!r}"), path.open(encoding="utf-8-sig", newline="") as text:
            delimiter = find_delimiter(text.readline())
            text.seek(0)
            rows = csv.reader(text, strict=True, delimiter=delimiter)
            header = [name.strip() for name in next(rows, [])]
            check_header(header)
            for cells in rows:
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise InvalidDataError(
                        f"{plural(len(cells), 'column')} instead of {len(header)} ({','.join(header)})",
                        where=f"{file}, line {rows.line_num}",
                        remedy="write one value for each column; a value may be empty",
                    )
                yield rows.line_num, dict(zip(header, cells, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidDataError(
            f"the file is not CSV in UTF-8: {error}", where=file, remedy="save it as CSV in UTF-8"
        ) from None
