"""Ranks unlabelled images by what a model would learn from their labels: those it is least sure of."""

import csv
import heapq
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the table; the lines have the margin of every image.
MAX_ROWS = 1_000


def margin_of(probabilities: NDArray[np.float32], *, multi_label: bool) -> float:
    """Returns how clearly the model decided, 0..1.

    With one label per image, that is the probability of the most probable class minus that of the next one
    ("best versus second best": Joshi, Porikli and Papanikolopoulos, "Multi-Class Active Learning for Image
    Classification", 2009). With several labels, it is that of the label with the least clear decision.

    Args:
        probabilities: Of each class.
        multi_label: Whether an image may have several labels.
    """
    if multi_label:
        return float(np.abs(2 * probabilities - 1).min())
    next_best, best = np.partition(probabilities, -2)[-2:] if len(probabilities) > 1 else (0.0, 1.0)
    return float(best - next_best)


def keep_least_sure(
    kept: Sequence[dict[str, Any]], predictions: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns those with the smallest margins, smallest first; of equal margins, the earlier ones.

    Args:
        kept: Of the predictions before.
        predictions: Lines of the output; those with an error are left out.
    """
    predicted = (line for line in predictions if "error" not in line)
    return heapq.nsmallest(MAX_ROWS, [*kept, *predicted], key=lambda line: line["margin"])


def worth_labelling_csv(least_sure: Iterable[dict[str, Any]]) -> str:
    """Returns the table of images, in the order given, with the model's guess."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "guess", "probability", "margin"))
    writer.writerows((line["key"], line["label"], line["probability"], line["margin"]) for line in least_sure)
    return text.getvalue()
