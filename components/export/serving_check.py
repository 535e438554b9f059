"""Loads a model as a server would, and writes its predictions.

The export step runs it in a new process, so that the check does not share state with the process that trained
or evaluated the model.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.arguments import argument, parse_command_line
from imgpipe.components.common.dataset import VALIDATION, Manifest, Split, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.drift import MAX_IMAGES, MIN_IMAGES
from imgpipe.components.common.saved_model import EMBEDDINGS_SIGNATURE
from imgpipe.components.common.served_model import BATCH_SIZE, ServedModel, check_labels, load_served_model
from imgpipe.components.common.step import run_command

# Some images are also predicted one by one, since servers get both kinds of requests.
_SINGLE_REQUESTS = 8
# Requests with one image for the latency; with fewer, the 99th percentile would mean little.
_TIMED_REQUESTS = 100
# The time limit for a model that takes seconds per image.
_MAX_TIMING_SECONDS = 20.0


@dataclass(frozen=True)
class ServingCheckArguments:
    """Which model to load and which images to predict."""

    model: str = argument("", "Folder of the SavedModel.")
    dataset: str = argument("", "Folder of the dataset.")
    split: str = argument(VALIDATION, "The split with the images.")
    examples: int = argument(1, "Number of images, from the start of the split.", minimum=1)
    predictions: str = argument("", "Output .npz file: classes int64 [n], probabilities float32 [n, N].")


def write_predictions(arguments: ServingCheckArguments) -> None:
    """Writes the model's predictions for the first images of a split.

    The batches are those of the evaluation, so that the arithmetic is the same. The first few images are also
    predicted one by one, as ``single_classes`` and ``single_probabilities``. ``start_seconds`` (float64 [])
    is the time from loading the model to its first prediction, and ``latency_seconds`` (float64 [requests])
    the latency of each of up to 100 requests with one image after that. ``embeddings`` (float32 [n, d]) are
    those of up to 600 images of the split, n = 0 if the model has none or there are too few for a sketch.

    Raises:
        CheckFailedError: if the model is damaged.
        InvalidDataError: if its labels are not the dataset's.
    """
    folder = Path(arguments.dataset)
    manifest = read_manifest(folder)
    split = manifest.splits[arguments.split]
    records = islice(read_split(folder, split, multi_label=manifest.multi_label), arguments.examples)
    images = [record.encoded for record in records]
    started = time.perf_counter()
    model = load_served_model(Path(arguments.model))
    check_labels(model, manifest.labels, where=arguments.model)
    model.predict(images[:1])
    start_seconds = time.perf_counter() - started
    batches = [
        model.predict(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)
    ]
    singles = [model.predict([image]) for image in images[:_SINGLE_REQUESTS]]
    np.savez(
        arguments.predictions,
        classes=np.concatenate([batch.classes for batch in batches]),
        probabilities=np.concatenate([batch.probabilities for batch in batches]),
        single_classes=np.concatenate([single.classes for single in singles]),
        single_probabilities=np.concatenate([single.probabilities for single in singles]),
        start_seconds=start_seconds,
        latency_seconds=_latencies(model, images),
        embeddings=_embeddings(model, folder, manifest, split),
    )


def _embeddings(model: ServedModel, folder: Path, manifest: Manifest, split: Split) -> NDArray[np.float32]:
    """Returns the embeddings of up to 600 images of the split, for the drift sketch; none without them."""
    parts = [np.zeros((0, 0), np.float32)]
    if EMBEDDINGS_SIGNATURE in model.signatures and split.examples >= MIN_IMAGES:
        records = read_split(folder, split, multi_label=manifest.multi_label)
        # Evenly spaced: a user's own records may be sorted by class.
        chosen = set(np.linspace(0, split.examples - 1, min(split.examples, MAX_IMAGES)).astype(int).tolist())
        encoded = (record.encoded for number, record in enumerate(records) if number in chosen)
        parts = []
        while batch := list(islice(encoded, BATCH_SIZE)):
            keys = [str(number) for number in range(len(batch))]
            parts.append(model.call(batch, keys, EMBEDDINGS_SIGNATURE)["embeddings"])
    return np.concatenate(parts)


def _latencies(model: ServedModel, images: Sequence[bytes]) -> NDArray[np.float64]:
    first_started = time.perf_counter()
    latencies: list[float] = []
    while len(latencies) < _TIMED_REQUESTS and (
        not latencies or time.perf_counter() - first_started < _MAX_TIMING_SECONDS
    ):
        started = time.perf_counter()
        model.predict([images[len(latencies) % len(images)]])
        latencies.append(time.perf_counter() - started)
    return np.array(latencies)


def check_serving(arguments: ServingCheckArguments) -> NoReturn:
    """Writes the predictions and ends the process, as a step does."""
    run_command("export", lambda: write_predictions(arguments))


if __name__ == "__main__":
    check_serving(ServingCheckArguments(**parse_command_line(sys.argv[1:], [ServingCheckArguments])))
