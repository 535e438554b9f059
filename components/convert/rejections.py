"""rejected.csv, and how many rejected rows are too many."""

import csv
import io
from collections.abc import Sequence

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import log_event
from imgpipe.components.convert.row_table import Rejection
from imgpipe.components.storage import Location

REJECTED_NAME = "rejected.csv"
HEADER = ("file", "line", "path", "label", "reason")
_SHOWN = 5
# A list of more is for a program to read, not for a person to scroll through.
_MAX_LOGGED = 1_000


def format_rejections(rejections: Sequence[Rejection]) -> bytes:
    """Returns rejected.csv: a header, then file, line, path, label and reason of every rejected row.

    A line of 0 (an image of a folder, which has no line) is left empty.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in rejections:
        writer.writerow((row.file, row.line or "", row.path, row.label, row.reason))
    # Only a file name that is not UTF-8 needs the backslashes.
    return text.getvalue().encode("utf-8", "backslashreplace")


def log_rejected(rejections: Sequence[Rejection], folder: Location) -> None:
    """Writes a line for each of the first 1,000 rejected rows, and one with the number of the rest.

    In a cluster, the log is what is left of a step that failed: rejected.csv may go with its pod.

    Args:
        rejections: The rejected rows.
        folder: Where rejected.csv lies.
    """
    for row in rejections[:_MAX_LOGGED]:
        log_event(
            "row_rejected",
            f"convert: rejected: {described(row)}",
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
            f"convert: and {len(rejections) - _MAX_LOGGED:,} more rejected rows; {folder / REJECTED_NAME} "
            "lists all of them",
            severity="WARNING",
            count=len(rejections) - _MAX_LOGGED,
        )


def check_rejected(rejections: Sequence[Rejection], rows: int, max_fraction: float, folder: Location) -> None:
    """Refuses to go on when too many rows are rejected.

    Args:
        rejections: The rejected rows, in the order of the source.
        rows: How many rows there are in all.
        max_fraction: The largest share that may be rejected.
        folder: Where rejected.csv lies.

    Raises:
        InvalidDataError: with the counts, the first rejected rows, and where the others are listed.
    """
    count = len(rejections)
    if count / rows <= max_fraction:
        return
    first = "".join(f"\n  {described(row)}" for row in rejections[:_SHOWN])
    more = f"\n  and {count - _SHOWN:,} more" if count > _SHOWN else ""
    raise InvalidDataError(
        f"{count:,} of {rows:,} rows are rejected, a share of {count / rows:.4g}; "
        f"max_rejected_fraction={max_fraction:g} is allowed:{first}{more}",
        where=f"{folder / REJECTED_NAME} lists every rejected row with its reason",
        remedy="correct or remove these rows, or raise max_rejected_fraction",
    )


def described(row: Rejection) -> str:
    """Returns file, line, path and reason in one line."""
    place = f"{row.file}, line {row.line}" if row.line else row.file
    return f"{place}: {row.path!r}: {row.reason}"
