"""Loads a model in this process, as a server would, and writes what it answers.

Started by the export step as ``python -m imgpipe.components.export.serving_check``, so that nothing of the
process that trained or evaluated the model can be left over.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.arguments import argument, parse_command_line
from imgpipe.components.common.dataset import VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.served_model import BATCH_SIZE, ServedModel, check_labels, load_served_model
from imgpipe.components.common.step import run_command

# Some are asked one by one as well: a server gets both.
_SINGLE_REQUESTS = 8
# Requests of one image whose time is taken, the images in turns; the 99th percentile of fewer says little.
_TIMED_REQUESTS = 100
# Of a model that takes seconds for an image, this long is enough.
_LONGEST_TIMING_SECONDS = 20.0


@dataclass(frozen=True)
class ServingCheckArguments:
    """What to load and ask."""

    model: str = argument("", "Folder of the SavedModel.")
    dataset: str = argument("", "Folder of the data set.")
    split: str = argument(VALIDATION, "The split whose images to ask for.")
    examples: int = argument(1, "How many of the split's first images to ask for.", minimum=1)
    answers: str = argument("", "The .npz file to write: classes int64 [n], probabilities float32 [n, N].")


def write_answers(arguments: ServingCheckArguments) -> None:
    """Asks the model for a split's first images and writes its answers in their order.

    They are asked in the batches of the evaluation, so that the arithmetic is the same, and the first few one
    by one, as ``single_classes`` and ``single_probabilities``. ``start_seconds`` (float64 []) is how long it
    took from loading the model to its first answer, ``latency_seconds`` (float64 [requests]) how long each of
    up to 100 requests of one image took afterwards.

    Raises:
        CheckFailedError: if the model is damaged.
        InvalidDataError: if its labels are not the data set's.
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
        arguments.answers,
        classes=np.concatenate([answer.classes for answer in batches]),
        probabilities=np.concatenate([answer.probabilities for answer in batches]),
        single_classes=np.concatenate([answer.classes for answer in singles]),
        single_probabilities=np.concatenate([answer.probabilities for answer in singles]),
        start_seconds=start_seconds,
        latency_seconds=_latencies(model, images),
    )


def _latencies(model: ServedModel, images: Sequence[bytes]) -> NDArray[np.float64]:
    begun = time.perf_counter()
    latencies: list[float] = []
    while len(latencies) < _TIMED_REQUESTS and (
        not latencies or time.perf_counter() - begun < _LONGEST_TIMING_SECONDS
    ):
        started = time.perf_counter()
        model.predict([images[len(latencies) % len(images)]])
        latencies.append(time.perf_counter() - started)
    return np.array(latencies)


if __name__ == "__main__":
    run_command(
        "export",
        lambda: write_answers(
            ServingCheckArguments(**parse_command_line(sys.argv[1:], [ServingCheckArguments]))
        ),
    )
