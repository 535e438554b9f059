"""A set of labels as one text: as a row of a CSV file has it, so that a table of rows holds either."""

import csv
import io
from collections.abc import Iterable


def format_label_set(names: Iterable[str]) -> str:
    """Returns the names in the order of the alphabet, each once, separated by commas; quoted where needed.

    Equal sets give equal texts, different ones different ones; the empty set gives the empty text.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow(sorted(set(names)))
    return text.getvalue()


def parse_label_set(text: str) -> tuple[str, ...]:
    """Returns the names that ``format_label_set`` made a text of."""
    return tuple(next(csv.reader([text]))) if text else ()
