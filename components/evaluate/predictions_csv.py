"""Writes the prediction of every image as CSV."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import Split
from imgpipe.components.evaluate.multi_label_metrics import THRESHOLD

_COLUMNS = ("image", "true_label", "predicted_label", "true_probability", "predicted_probability")
_MULTI_LABEL_COLUMNS = ("image", "label", "true", "predicted", "probability")


def record_names(split: Split) -> Iterator[str]:
    """Yields names for the split's records that have no file name: shard and number, e.g. ``val-00001#5``."""
    for shard in split.shards:
        name = PurePosixPath(shard.path).name
        yield from (f"{name}#{number}" for number in range(shard.examples))


def write_predictions(
    path: Path,
    images: Sequence[str],
    classes: NDArray[Any],
    probabilities: NDArray[np.floating[Any]],
    labels: Sequence[str],
) -> None:
    """Writes the predictions, in the data set's order.

    Single-label data has a row for each image: the true and the most probable label with their probabilities.
    Multi-label data has a row for each label that an image has or that is predicted for it, and a row with an
    empty label for an image without any.

    Args:
        path: The file to write.
        images: The name of each image.
        classes: int [examples], the true classes; or bool [examples, N], whether the image has the label.
        probabilities: [examples, N].
        labels: The N label names.
    """
    # A file name that is not UTF-8 has lone surrogates, which are written as in manifest.json.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if classes.ndim == 2:
            writer.writerow(_MULTI_LABEL_COLUMNS)
            predicted = probabilities >= THRESHOLD
            for number, image in enumerate(images):
                rows = np.flatnonzero(classes[number] | predicted[number]).tolist()
                writer.writerows(
                    (
                        image,
                        labels[index],
                        int(classes[number, index]),
                        int(predicted[number, index]),
                        _text(probabilities[number, index]),
                    )
                    for index in rows
                )
                if not rows:
                    writer.writerow((image, "", "", "", ""))
            return
        writer.writerow(_COLUMNS)
        best = probabilities.argmax(axis=1).tolist()
        for number, (image, true, predicted) in enumerate(zip(images, classes.tolist(), best, strict=True)):
            writer.writerow(
                (
                    image,
                    labels[true],
                    labels[predicted],
                    _text(probabilities[number, true]),
                    _text(probabilities[number, predicted]),
                )
            )


def _text(probability: np.floating[Any]) -> str:
    return f"{probability:.7g}"
