"""Loads a model in this process, as a server would, and writes what it answers.

Started by the export step as ``python -m components.export.serving_check``, so that nothing of the
process that trained or evaluated the model can be left over.
"""

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from components.common.arguments import argument, parse_command_line
from components.common.dataset import VALIDATION, read_manifest
from components.common.served_model import BATCH_SIZE, check_labels, load_served_model
from components.common.split_records import split_records
from components.common.step import run_command

# Some are asked one by one as well: a server gets both.
_SINGLE_REQUESTS = 8


@dataclass(frozen=True)
class ServingCheckArguments:
    """What to load and ask."""

    model: str = argument("", "Folder of the SavedModel.")
    dataset: str = argument("", "Folder of the data set.")
    examples: int = argument(1, "How many of the first validation images to ask for.", minimum=1)
    answers: str = argument("", "The .npz file to write: classes int64 [n], probabilities float32 [n, N].")


def write_answers(arguments: ServingCheckArguments) -> None:
    """Asks the model for the first validation images and writes its answers in their order.

    They are asked in the batches of the evaluation, so that the arithmetic is the same, and the first few one
    by one, as ``single_classes`` and ``single_probabilities``.

    Raises:
        CheckFailedError: if the model is damaged.
        InvalidDataError: if its labels are not the data set's.
    """
    model = load_served_model(Path(arguments.model))
    folder = Path(arguments.dataset)
    manifest = read_manifest(folder)
    check_labels(model, manifest.labels, where=arguments.model)
    records = islice(split_records(folder, manifest.splits[VALIDATION]), arguments.examples)
    images = [record.encoded for record in records]
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
    )


if __name__ == "__main__":
    run_command(
        "export",
        lambda: write_answers(
            ServingCheckArguments(**parse_command_line(sys.argv[1:], [ServingCheckArguments]))
        ),
    )
