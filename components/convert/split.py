"""Which images are for validation, and in which order images are written: both drawn from the seed."""

import random
from collections import defaultdict
from collections.abc import Sequence

from components.convert.rows import Row


def split_rows(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Sets aside ``fraction`` of the images of every label for validation.

    Rounded to whole images, but at least one and not all of a label's; a label's only image stays
    in training. What is drawn depends on the label's paths and the seed, not on the order of the
    rows or on other labels.

    Returns:
        Training and validation rows.
    """
    rows_of_label = defaultdict(list)
    for row in rows:
        rows_of_label[row.label].append(row)
    train, validation = [], []
    for label in sorted(rows_of_label):
        drawn = _drawn(rows_of_label[label], f"{seed} split {label}")
        count = min(max(round(len(drawn) * fraction), 1), len(drawn) - 1)
        validation += drawn[:count]
        train += drawn[count:]
    return train, validation


def shuffled(rows: Sequence[Row], seed: int, split: str) -> list[Row]:
    """Returns the rows in the order in which they are written, whatever order they come in."""
    return _drawn(rows, f"{seed} order {split}")


def _drawn(rows: Sequence[Row], seed: str) -> list[Row]:
    drawn = sorted(rows, key=lambda row: (row.path, row.label, row.file, row.line))
    # A string seeds through SHA-512: equal everywhere, unlike hash(), which differs from run to run.
    random.Random(seed).shuffle(drawn)  # noqa: S311 - nothing secret
    return drawn
