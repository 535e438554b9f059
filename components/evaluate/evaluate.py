"""Evaluates a SavedModel on a data set: what is served is what is measured."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import Manifest, Split, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset, locate_record, read_split
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import Progress, log_event, log_result
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.records import ImageRecord, label_to_class
from imgpipe.components.common.reference_predictions import EVALUATION_NAME, write_reference
from imgpipe.components.common.served_model import ServedModel, check_labels, load_served_model
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.calibration import Calibration, measure_calibration
from imgpipe.components.evaluate.champion import champion_folder
from imgpipe.components.evaluate.comparison import Comparison, compare, compare_right
from imgpipe.components.evaluate.metrics import Metrics, compute_metrics, worst_mistakes
from imgpipe.components.evaluate.multi_label_metrics import (
    MultiLabelMetrics,
    compute_multi_label_metrics,
    names_of,
    right_at_top,
    worst_decisions,
)
from imgpipe.components.evaluate.report import Mistake, evaluation_report
from imgpipe.components.evaluate.slices import SliceMetrics, SliceReader, measure_slices
from imgpipe.components.evaluate.slices_csv import read_slices_csv

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


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        labels: The model's labels, in the order of the classes.
        split: Of the data set, that was measured on.
        metrics: Of the model; of a multi-label data set those of its labels.
        calibration: Of the model; None in a multi-label data set, where an image has more than one answer.
        slices: Accuracy by slice; empty if nothing divides the images.
        comparison: With the champion; None if there is none.
    """

    labels: tuple[str, ...]
    split: str
    metrics: Metrics | MultiLabelMetrics
    calibration: Calibration | None
    slices: tuple[SliceMetrics, ...]
    comparison: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of metrics.json: JSON values only."""
        return {
            "labels": list(self.labels),
            "split": self.split,
            **self.metrics.to_json(),
            "calibration": dataclasses.asdict(self.calibration) if self.calibration else None,
            "slices": [dataclasses.asdict(one) for one in self.slices],
            "comparison": dataclasses.asdict(self.comparison) if self.comparison else None,
        }


@dataclass(frozen=True)
class _Answers:
    """Of a split: true classes, probabilities float32 [n, N], slices of each image.

    The true classes are int64 [n], or bool [n, N] in a multi-label data set: whether an image has a label.
    """

    classes: NDArray[Any]
    probabilities: NDArray[np.float32]
    slices: list[tuple[tuple[str, str], ...]]

    @property
    def is_multi_label(self) -> bool:
        """Whether the images have a list of labels."""
        return self.classes.ndim == 2

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Of which images the most probable class is right or wrong: of those that have a label."""
        if self.is_multi_label:
            return np.asarray(self.classes.any(axis=1))
        return np.ones(len(self.classes), bool)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the most probable class is one of the image's."""
        if self.is_multi_label:
            return right_at_top(self.classes, self.probabilities, 1)
        return np.asarray(self.probabilities.argmax(axis=1) == self.classes)


def evaluate(
    dataset_folder: Path,
    model_folder: Path,
    files: EvaluationFiles,
    arguments: EvaluateArguments | None = None,
) -> Evaluation:
    """Measures the model on every image of a split, through the signature that is served.

    Args:
        dataset_folder: Where the data set's manifest lies; its shards may lie in Cloud Storage.
        model_folder: What the train step wrote.
        files: Where to write.
        arguments: What to measure on and compare with; None = their defaults.

    Raises:
        InvalidDataError: if the data has a label that the model does not know, there is no image in the
            split, one cannot be decoded (which one is said), the data is multi-label and the model is not,
            or the other way round, or ``slices_csv`` is of another form or names no image.
        MissingInputError: if a model or the data set is not there.
        CheckFailedError: if a model is damaged.
    """
    arguments = arguments or EvaluateArguments()
    with champion_folder(arguments) as champion, local_dataset(dataset_folder) as local_folder:
        return _evaluate(local_folder, model_folder, champion, files, arguments)


def _evaluate(
    dataset_folder: Path,
    model_folder: Path,
    champion: Path | None,
    files: EvaluationFiles,
    arguments: EvaluateArguments,
) -> Evaluation:
    manifest = read_manifest(dataset_folder)
    provenance = read_provenance(model_folder)
    model = load_served_model(model_folder)
    _check_kind(manifest, provenance, where=str(model_folder))
    split = manifest.splits.get(arguments.evaluation_split)
    class_of = _classes_by_label(model, manifest, where=str(model_folder))
    if split is None or not split.examples:
        raise InvalidDataError(
            f"the data set has no {arguments.evaluation_split} images",
            where=str(dataset_folder),
            remedy=f"give images for the {arguments.evaluation_split} split",
        )
    reader = SliceReader(manifest, read_slices_csv(arguments.slices_csv) if arguments.slices_csv else None)
    answers = _predict(model, dataset_folder, split, class_of, manifest, reader)
    _check_matched(reader, split, arguments)
    evaluation = Evaluation(
        labels=model.labels,
        split=arguments.evaluation_split,
        metrics=(compute_multi_label_metrics if answers.is_multi_label else compute_metrics)(
            answers.classes, answers.probabilities
        ),
        calibration=None
        if answers.is_multi_label
        else measure_calibration(answers.classes, answers.probabilities),
        slices=measure_slices(
            [some for some, judged in zip(answers.slices, answers.judged, strict=True) if judged],
            answers.right[answers.judged],
            reader.given_names,
        ),
        comparison=_comparison(champion, model, dataset_folder, split, class_of, manifest, answers),
    )
    _log(evaluation)
    files.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1)
    (files.folder / EVALUATION_NAME).write_text(text + "\n", encoding="utf-8")
    write_reference(files.folder, answers.probabilities)
    page = evaluation_report(
        evaluation.metrics,
        evaluation.labels,
        manifest=manifest,
        provenance=provenance,
        mistakes=_mistakes(answers, dataset_folder, split, model.labels),
        split=evaluation.split,
        calibration=evaluation.calibration,
        slices=evaluation.slices,
        comparison=evaluation.comparison,
    )
    files.report.parent.mkdir(parents=True, exist_ok=True)
    files.report.write_text(page, encoding="utf-8")
    return evaluation


def _check_matched(reader: SliceReader, split: Split, arguments: EvaluateArguments) -> None:
    """Refuses a file of slices that names no image of the split, and tells how many images it leaves out."""
    if not arguments.slices_csv or reader.matched == split.examples:
        return
    if not reader.matched:
        raise InvalidDataError(
            f"no path of the file is that of an image of the {arguments.evaluation_split} split",
            where=arguments.slices_csv,
            remedy="write the paths as the data set has them in image/filename: as in train_csv, or relative "
            "to the folder images",
        )
    log_event(
        "slices_incomplete",
        f"evaluate: {arguments.slices_csv} says nothing of {split.examples - reader.matched:,} of "
        f"{split.examples:,} images; they are in none of its slices",
        severity="WARNING",
    )


def _check_kind(manifest: Manifest, provenance: dict[str, Any], *, where: str) -> None:
    """Refuses to measure a model on data of the other kind: its probabilities mean something else."""
    multi_label = bool(provenance.get("multi_label", False))
    if multi_label != manifest.multi_label:
        kinds = {True: "has a list of labels", False: "has one label"}
        raise InvalidDataError(
            f"in the data an image {kinds[manifest.multi_label]}, the model was trained on data in which an "
            f"image {kinds[multi_label]}",
            where=where,
            remedy=f"convert the data with multi_label={str(multi_label).lower()}, or name another model",
        )


def _classes_by_label(model: ServedModel, manifest: Manifest, *, where: str) -> NDArray[np.int64]:
    """Returns the model's class for each of the data set's, which are matched by their labels' names.

    A data set may lack labels of the model, or have them in another order.

    Raises:
        InvalidDataError: naming both lists, if the data has a label that the model does not know.
    """
    if set(manifest.labels) <= set(model.labels):
        places = {label: number for number, label in enumerate(model.labels)}
        if model.labels != manifest.labels:
            log_event(
                "labels_matched",
                f"evaluate: the data's {manifest.num_classes} labels are matched by name with the model's "
                f"{len(model.labels)}",
                severity="WARNING",
            )
        return np.array([places[label] for label in manifest.labels], np.int64)
    check_labels(model, manifest.labels, where=where)
    return np.arange(manifest.num_classes)


def _comparison(
    folder: Path | None,
    challenger: ServedModel,
    dataset_folder: Path,
    split: Split,
    class_of: NDArray[np.int64],
    manifest: Manifest,
    answers: _Answers,
) -> Comparison | None:
    if folder is None:
        return None
    champion = load_served_model(folder)
    check_labels(champion, challenger.labels, where=str(folder))
    log_event("champion", f"evaluate: the champion is {folder}")
    theirs = _predict(champion, dataset_folder, split, class_of, manifest, SliceReader(manifest))
    if answers.is_multi_label:
        return compare_right(theirs.right[answers.judged], answers.right[answers.judged])
    return compare(answers.classes, theirs.probabilities, answers.probabilities)


def _log(evaluation: Evaluation) -> None:
    metrics, comparison = evaluation.metrics, evaluation.comparison
    against = ""
    if comparison is not None:
        against = (
            f"; champion {comparison.champion_top_1_accuracy:.4f}, difference {comparison.difference:+.4f} "
            f"(95 %: {comparison.lower:+.4f} to {comparison.upper:+.4f})"
        )
    more: dict[str, Any] = {}
    shown = ""
    if isinstance(metrics, MultiLabelMetrics):
        more = {"mean_average_precision": metrics.mean_average_precision, "f1": metrics.f1}
        shown = f"mean average precision {metrics.mean_average_precision:.4f}, "
    if evaluation.calibration is not None:
        more = {"expected_calibration_error": evaluation.calibration.expected_calibration_error}
    log_result(
        "evaluate",
        f"{shown}top-1 accuracy {metrics.top_1_accuracy:.4f} on {metrics.examples:,} images{against}",
        top_1_accuracy=metrics.top_1_accuracy,
        top_5_accuracy=metrics.top_5_accuracy,
        loss=metrics.loss,
        examples=metrics.examples,
        **more,
        comparison=dataclasses.asdict(comparison) if comparison else None,
    )


def _predict(
    model: ServedModel,
    folder: Path,
    split: Split,
    class_of: NDArray[np.int64],
    manifest: Manifest,
    reader: SliceReader,
) -> _Answers:
    progress = Progress("evaluate", split.examples, "images")
    records = read_split(folder, split, multi_label=manifest.multi_label)
    labels: list[tuple[int, ...]] = []
    slices: list[tuple[tuple[str, str], ...]] = []
    probabilities: list[NDArray[np.float32]] = []
    while batch := list(islice(records, _BATCH_SIZE)):
        try:
            answer = model.predict([record.encoded for record in batch])
        except InvalidDataError as error:
            raise _located(error, model, batch, folder, split, first=len(labels)) from None
        labels.extend(record.all_labels for record in batch)
        slices.extend(reader.slices_of(record) for record in batch)
        probabilities.append(answer.probabilities)
        progress.update(len(labels))
    answers = np.concatenate(probabilities)
    if not manifest.multi_label:
        return _Answers(class_of[[label_to_class(label) for (label,) in labels]], answers, slices)
    targets = np.zeros(answers.shape, bool)
    for number, some in enumerate(labels):
        targets[number, class_of[[label_to_class(label) for label in some]]] = True
    return _Answers(targets, answers, slices)


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
                found.problem, where=locate_record(folder, split, index) + name, remedy=found.remedy
            )
    return error


def _mistakes(answers: _Answers, folder: Path, split: Split, labels: Sequence[str]) -> list[Mistake]:
    """Reads the pictures of the worst mistakes: a second pass, so that the first keeps no image."""
    if answers.is_multi_label:
        return _wrong_decisions(answers, folder, split, labels)
    worst = worst_mistakes(answers.classes, answers.probabilities, _MISTAKES_SHOWN)
    wanted = {mistake.index for mistake in worst}
    records = {index: record for index, record in enumerate(read_split(folder, split)) if index in wanted}
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


def _wrong_decisions(answers: _Answers, folder: Path, split: Split, labels: Sequence[str]) -> list[Mistake]:
    worst = worst_decisions(answers.classes, answers.probabilities, _MISTAKES_SHOWN)
    wanted = {decision.index for decision in worst}
    records = enumerate(read_split(folder, split, multi_label=True))
    pictures = {index: record for index, record in records if index in wanted}
    return [
        Mistake(
            pictures[decision.index].encoded,
            pictures[decision.index].filename,
            names_of(labels, answers.classes[decision.index]),
            ("" if decision.predicted else "not ") + labels[decision.class_index],
            decision.probability,
        )
        for decision in worst
    ]
