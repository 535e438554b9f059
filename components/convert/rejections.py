"""Writes, logs and limits rejected rows."""

import csv
import io
from collections.abc import Sequence

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.convert.row_table import Rejection
from imgpipe.components.storage import Location

REJECTED_NAME = "rejected.csv"
HEADER = ("file", "line", "path", "label", "reason")
_MAX_SHOWN = 5
_MAX_LOGGED = 1_000


def format_rejections(rejections: Sequence[Rejection]) -> bytes:
    """Returns the content of rejected.csv: a header, then a line for every rejected row.

    The column ``line`` is empty for images of a folder.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in rejections:
        writer.writerow((row.file, row.line or "", row.path, row.label, row.reason))
    # Backslashes only appear in file names that are not UTF-8.
    return text.getvalue().encode("utf-8", "backslashreplace")


def log_rejected(rejections: Sequence[Rejection], folder: Location) -> None:
    """Logs the first 1,000 rejected rows and the number of the others.

    In a cluster, only the log of a failed step may remain: rejected.csv can be deleted with its pod.

    Args:
        rejections: The rejected rows.
        folder: The folder of rejected.csv.
    """
    for row in rejections[:_MAX_LOGGED]:
        log_event(
            "row_rejected",
            f"convert: rejected: {describe_rejection(row)}",
            severity="WARNING",
            file=row.file,
            line=row.line,
            path=row.path,
            label=row.label,
            reason=row.reason,
        )
    if len(rejections) > _MAX_LOGGED:
        log_event(
            "rejections_not_logged",
            f"convert: and {len(rejections) - _MAX_LOGGED:,} more rejected; {folder / REJECTED_NAME} lists "
            "every rejected row",
            severity="WARNING",
            # A display counts them with those above.
            kind="row_rejected",
            count=len(rejections) - _MAX_LOGGED,
        )


def check_rejected(rejections: Sequence[Rejection], rows: int, max_fraction: float, folder: Location) -> None:
    """Fails if too many rows are rejected.

    Args:
        rejections: The rejected rows, in the order of the source.
        rows: The number of all rows.
        max_fraction: The largest fraction that may be rejected.
        folder: The folder of rejected.csv.

    Raises:
        InvalidDataError: with the counts, the first rejected rows, and the path of the complete list.
    """
    count = len(rejections)
    if count / rows <= max_fraction:
        return
    # If most rows have a problem, the file or the folder has one.
    allow = "" if count > rows / 2 else ", or raise max_rejected_fraction"
    first = "".join(f"\n  {describe_rejection(row)}" for row in rejections[:_MAX_SHOWN])
    more = f"\n  and {count - _MAX_SHOWN:,} more" if count > _MAX_SHOWN else ""
    raise InvalidDataError(
        f"rejected {count:,} of {plural(rows, 'row')} ({count / rows:.2%}), "
        f"more than max_rejected_fraction={max_fraction:g} allows:{first}{more}",
        where=f"{folder / REJECTED_NAME} lists every rejected row with its reason",
        remedy=f"fix or remove these rows{allow}",
    )


def describe_rejection(row: Rejection) -> str:
    """Returns the file, line, path and reason as one line."""
    where = f"{row.file}, line {row.line}" if row.line else row.file
    return f"{where}: {row.path!r}: {row.reason}"
