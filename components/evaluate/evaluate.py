"""Evaluates a SavedModel on a data set: what is served is what is measured."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.common.dataset import VALIDATION, Manifest, Split, read_manifest
from components.common.errors import InvalidDataError
from components.common.log import Progress, log_result
from components.common.provenance import read_provenance
from components.common.records import ImageRecord, label_to_class
from components.common.reference_answers import write_reference
from components.common.served_model import ServedModel, check_labels, load_served_model
from components.common.split_records import record_place, split_records
from components.evaluate.metrics import Metrics, compute_metrics, worst_mistakes
from components.evaluate.report import Mistake, evaluation_report

METRICS_NAME = "metrics.json"
_MISTAKES_SHOWN = 24
_BATCH_SIZE = 32


@dataclass(frozen=True)
class EvaluationFiles:
    """Where an evaluation writes.

    Attributes:
        folder: Gets ``metrics.json`` and the predictions that the export step compares with.
        report: The HTML page.
    """

    folder: Path
    report: Path


def evaluate(dataset_folder: Path, model_folder: Path, files: EvaluationFiles) -> tuple[Metrics, Manifest]:
    """Measures the model on every validation image, through the signature that is served.

    Args:
        dataset_folder: Where the data set's manifest lies.
        model_folder: What the train step wrote.
        files: Where to write.

    Raises:
        InvalidDataError: if the model and the data do not have the same labels, there is no
            validation image, or one cannot be decoded (which one is said).
        MissingInputError: if the model or the data set is not there.
        CheckFailedError: if the model is damaged.
    """
    manifest = read_manifest(dataset_folder)
    provenance = read_provenance(model_folder)
    model = load_served_model(model_folder)
    check_labels(model, manifest.labels, where=str(model_folder))
    split = manifest.splits.get(VALIDATION)
    if split is None or not split.examples:
        raise InvalidDataError(
            f"the data set has no {VALIDATION} images",
            where=str(dataset_folder),
            remedy=f"give images for the {VALIDATION} split",
        )
    classes, probabilities = _predict(model, dataset_folder, split)
    metrics = compute_metrics(classes, probabilities)
    log_result(
        "evaluate",
        f"top-1 accuracy {metrics.top_1_accuracy:.4f} on {metrics.examples:,} images",
        top_1_accuracy=metrics.top_1_accuracy,
        top_5_accuracy=metrics.top_5_accuracy,
        loss=metrics.loss,
        examples=metrics.examples,
    )
    files.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"labels": manifest.labels, **metrics.to_json()}, ensure_ascii=False, indent=1)
    (files.folder / METRICS_NAME).write_text(text + "\n", encoding="utf-8")
    write_reference(files.folder, probabilities)
    page = evaluation_report(
        metrics,
        manifest.labels,
        manifest=manifest,
        provenance=provenance,
        mistakes=_mistakes(classes, probabilities, dataset_folder, split, manifest.labels),
    )
    files.report.parent.mkdir(parents=True, exist_ok=True)
    files.report.write_text(page, encoding="utf-8")
    return metrics, manifest


def _predict(model: ServedModel, folder: Path, split: Split) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    progress = Progress("evaluate", split.examples, "images")
    records = split_records(folder, split)
    classes: list[int] = []
    probabilities: list[NDArray[np.float32]] = []
    while batch := list(islice(records, _BATCH_SIZE)):
        try:
            answer = model.predict([record.encoded for record in batch])
        except InvalidDataError as error:
            raise _located(error, model, batch, folder, split, first=len(classes)) from None
        classes.extend(label_to_class(record.label) for record in batch)
        probabilities.append(answer.probabilities)
        progress.update(len(classes))
    return np.array(classes, dtype=np.int64), np.concatenate(probabilities)


def _located(
    error: InvalidDataError,
    model: ServedModel,
    batch: Sequence[ImageRecord],
    folder: Path,
    split: Split,
    *,
    first: int,
) -> InvalidDataError:
    """Finds the image that made a batch fail, by asking for one at a time, and names its record."""
    for index, record in enumerate(batch, start=first):
        try:
            model.predict([record.encoded])
        except InvalidDataError as found:
            name = f" ({record.filename})" if record.filename else ""
            return InvalidDataError(
                found.problem, where=record_place(folder, split, index) + name, remedy=found.remedy
            )
    return error


def _mistakes(
    classes: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    folder: Path,
    split: Split,
    labels: Sequence[str],
) -> list[Mistake]:
    """Reads the pictures of the worst mistakes: a second pass, so that the first keeps no image."""
    worst = worst_mistakes(classes, probabilities, _MISTAKES_SHOWN)
    wanted = {mistake.index for mistake in worst}
    records = {index: record for index, record in enumerate(split_records(folder, split)) if index in wanted}
    return [
        Mistake(
            records[mistake.index].encoded,
            records[mistake.index].filename,
            labels[mistake.true_class],
            labels[mistake.predicted_class],
            mistake.probability,
        )
        for mistake in worst
    ]
