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
from components.common.records import label_to_class
from components.common.split_records import split_records
from components.evaluate.metrics import Metrics, compute_metrics, worst_mistakes
from components.evaluate.reference import write_reference
from components.evaluate.report import Mistake, evaluation_report
from components.export.provenance import read_provenance
from components.export.serving import ServedModel, load_served_model

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
        InvalidDataError: if the model and the data do not have the same labels, or an image cannot
            be decoded.
        MissingInputError: if the model or the data set is not there.
    """
    manifest = read_manifest(dataset_folder)
    provenance = read_provenance(model_folder)
    model = load_served_model(model_folder)
    if model.labels != manifest.labels:
        raise InvalidDataError(
            f"the model's labels ({_listed(model.labels)}) are not those of the data set "
            f"({_listed(manifest.labels)})",
            where=str(model_folder),
            remedy="evaluate the model on data converted with its own labels file, assets/labels.txt",
        )
    split = manifest.splits[VALIDATION]
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
        answer = model.predict([record.encoded for record in batch])
        classes.extend(label_to_class(record.label) for record in batch)
        probabilities.append(answer.probabilities)
        progress.update(len(classes))
    return np.array(classes, dtype=np.int64), np.concatenate(probabilities)


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


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
