"""Sets of labels as text, in CSV format, so that single labels and label sets share one table column."""

import csv
import io
from collections.abc import Iterable


def format_label_set(names: Iterable[str]) -> str:
    """Returns the distinct names in alphabetical order, separated by commas and quoted where needed.

    Two sets have the same text exactly if they are equal; the empty set gives an empty text.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow(sorted(set(names)))
    return text.getvalue()


def parse_label_set(text: str) -> tuple[str, ...]:
    """Returns the names in a text made by ``format_label_set``."""
    return tuple(next(csv.reader([text]))) if text else ()
