"""Evaluates a SavedModel on a dataset, through the signature that is served."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import TEST, VALIDATION, Manifest, Split, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset, locate_record, read_split
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import Progress, log_event, log_result
from imgpipe.components.common.plural import plural
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.records import ImageRecord, label_to_class
from imgpipe.components.common.reference_predictions import (
    EVALUATION_NAME,
    PREDICTIONS_NAME,
    write_reference,
)
from imgpipe.components.common.resources import describe_machine
from imgpipe.components.common.served_model import ServedModel, check_labels, load_served_model
from imgpipe.components.common.tf_import import tf
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.attention import attention_maps
from imgpipe.components.evaluate.calibration import compute_calibration, compute_scaled_calibration
from imgpipe.components.evaluate.champion import champion_folder
from imgpipe.components.evaluate.comparison import Comparison, compare
from imgpipe.components.evaluate.evaluation import Evaluation
from imgpipe.components.evaluate.examples import choose_examples, with_pictures
from imgpipe.components.evaluate.held_out import HeldOutMetrics, accuracy_interval, compute_set_metrics
from imgpipe.components.evaluate.metrics import Metrics, compute_metrics, top_k_correct
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics, compute_multi_label_metrics
from imgpipe.components.evaluate.predictions_csv import record_names, write_predictions
from imgpipe.components.evaluate.report import evaluation_report
from imgpipe.components.evaluate.slices import SliceReader, compute_slices
from imgpipe.components.evaluate.slices_csv import read_slices_csv
from imgpipe.components.evaluate.thresholds import count_thresholds
from imgpipe.components.images.resize_modes import STRETCH

_BATCH_SIZE = 32


@dataclass(frozen=True)
class _Predictions:
    """True classes, probabilities (float32 [n, N]), slices and names of the images of a split.

    The true classes are int64 [n], or bool [n, N] in a multi-label dataset: whether an image has a label.
    """

    classes: NDArray[Any]
    probabilities: NDArray[np.float32]
    slices: list[tuple[tuple[str, str], ...]]
    names: list[str]

    @property
    def is_multi_label(self) -> bool:
        """Whether images may have several labels, or none."""
        return self.classes.ndim == 2

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """Whether an image has a label, so that its top-1 prediction can be correct."""
        if self.is_multi_label:
            return np.asarray(self.classes.any(axis=1))
        return np.ones(len(self.classes), bool)

    def metrics(self) -> Metrics | MultiLabelMetrics:
        """Computes the metrics."""
        compute = compute_multi_label_metrics if self.is_multi_label else compute_metrics
        return compute(self.classes, self.probabilities)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the most probable class is one of the image's labels."""
        return top_k_correct(self.classes, self.probabilities, 1)


def evaluate(
    dataset_folder: Path,
    model_folder: Path,
    output: Path,
    arguments: EvaluateArguments | None = None,
    *,
    report: Path | None = None,
    test: bool = True,
) -> Evaluation:
    """Evaluates the model on all images of a split, through the signature that is served.

    If the dataset has a test split, the accuracy on it is measured too.

    Args:
        dataset_folder: The folder that contains the dataset's manifest; shards may be remote.
        model_folder: The model from the train step.
        output: The folder for ``metrics.json``, ``predictions.csv`` and the reference predictions for the
            export step.
        arguments: Which images to evaluate on and which model to compare with; None = the defaults.
        report: The HTML report; None = ``report.html`` in ``output``.
        test: False leaves out the test split and the explanation of mistakes, for models that may not be the
            final one.

    Raises:
        InvalidDataError: if the dataset has a label that the model does not have, the split is empty, an
            image cannot be decoded (the error names it), only one of dataset and model is multi-label,
            another version of imgpipe trained the model, or ``slices_csv`` is invalid or matches no image.
        MissingInputError: if a model or the dataset does not exist.
        CheckFailedError: if a model is damaged.
    """
    arguments = arguments or EvaluateArguments()
    splits = (arguments.evaluation_split, *((TEST,) if test else ()))
    with champion_folder(arguments) as champion, local_dataset(dataset_folder, *splits) as folder:
        manifest = read_manifest(folder)
        provenance = read_provenance(model_folder)
        model = load_served_model(model_folder)
        _check_kind(manifest, provenance, where=str(model_folder))
        _check_complete(provenance, where=str(model_folder))
        split = manifest.splits.get(arguments.evaluation_split)
        class_of = _classes_by_label(model, manifest, where=str(model_folder))
        if split is None or not split.examples:
            raise InvalidDataError(
                f"the dataset has no {arguments.evaluation_split} images",
                where=str(folder),
                remedy=f"add images to the {arguments.evaluation_split} split",
            )
        reader = SliceReader(
            manifest, read_slices_csv(arguments.slices_csv) if arguments.slices_csv else None
        )
        predictions = _predict(model, folder, split, class_of, manifest, reader)
        _check_matched(reader, split, arguments)
        # On the images that the model's temperature was fitted on, it is cross-fitted.
        calibration, temperature_scaling = compute_scaled_calibration(
            predictions.classes,
            predictions.probabilities,
            provenance["temperature"],
            cross_fit=arguments.evaluation_split == VALIDATION
            and provenance.get("data_digest") == manifest.digest(),
        )
        metrics = predictions.metrics()
        held_out = manifest.splits.get(TEST) if test and arguments.evaluation_split != TEST else None
        evaluation = Evaluation(
            labels=model.labels,
            split=arguments.evaluation_split,
            metrics=metrics,
            top_1_accuracy_interval=accuracy_interval(
                metrics.top_1_accuracy, int(predictions.has_label.sum())
            ),
            test=_held_out_metrics(
                _predict(model, folder, held_out, class_of, manifest, SliceReader(manifest)), provenance
            )
            if held_out and held_out.examples
            else None,
            calibration=calibration,
            temperature_scaling=temperature_scaling,
            label_sets=compute_set_metrics(predictions.classes, predictions.probabilities, provenance),
            slices=compute_slices(
                [
                    pairs
                    for pairs, counts in zip(predictions.slices, predictions.has_label, strict=True)
                    if counts
                ],
                predictions.correct[predictions.has_label],
                reader.given_names,
            ),
            comparison=_comparison(champion, model, folder, split, class_of, manifest, predictions),
        )
        _log(evaluation)
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1)
        (output / EVALUATION_NAME).write_text(text + "\n", encoding="utf-8")
        write_reference(output, predictions.probabilities)
        write_predictions(
            output / PREDICTIONS_NAME,
            predictions.names,
            predictions.classes,
            predictions.probabilities,
            model.labels,
        )
        examples = with_pictures(
            choose_examples(predictions.classes, predictions.probabilities, model.labels),
            read_split(folder, split, multi_label=manifest.multi_label),
            partial(attention_maps, model) if test else None,
            provenance.get("resize", STRETCH),
        )
        page = evaluation_report(
            evaluation,
            manifest=manifest,
            provenance=provenance,
            examples=examples,
            thresholds=count_thresholds(predictions.classes, predictions.probabilities, model.labels),
            about={
                "evaluated": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                "machine": _describe_machine(),
            },
        )
        report = report or output / "report.html"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(page, encoding="utf-8", errors="replace")
        return evaluation


def _describe_machine() -> str:
    """Returns the GPUs, cores and memory of the machine that evaluates."""
    details = [
        tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")
    ]
    names = Counter(str(detail.get("device_name", "GPU")) for detail in details)
    gpus = [f"{count} x {name}" if count > 1 else name for name, count in names.items()]
    return ", ".join([*gpus, describe_machine()])


def _held_out_metrics(predictions: _Predictions, provenance: Mapping[str, Any]) -> HeldOutMetrics:
    metrics = predictions.metrics()
    calibration = compute_calibration(predictions.classes, predictions.probabilities)
    accuracy = metrics.top_1_accuracy
    return HeldOutMetrics(
        examples=metrics.examples,
        top_1_accuracy=accuracy,
        top_1_accuracy_interval=accuracy_interval(accuracy, int(predictions.has_label.sum())),
        loss=metrics.loss,
        expected_calibration_error=calibration.expected_calibration_error,
        label_sets=compute_set_metrics(predictions.classes, predictions.probabilities, provenance),
    )


def _check_matched(reader: SliceReader, split: Split, arguments: EvaluateArguments) -> None:
    """Rejects a slices_csv that matches no image of the split, and warns if it does not match all of them."""
    if not arguments.slices_csv or reader.matched == split.examples:
        return
    if not reader.matched:
        raise InvalidDataError(
            f"no path in the file matches an image of the {arguments.evaluation_split} split",
            where=arguments.slices_csv,
            remedy="use the paths in image/filename of the dataset: as in train_csv, or relative to the "
            "folder given as `images`",
        )
    log_event(
        "slices_incomplete",
        f"evaluate: {arguments.slices_csv} has no rows for {split.examples - reader.matched:,} of "
        f"{plural(split.examples, 'image')}, which are in none of its slices",
        severity="WARNING",
    )


def _check_kind(manifest: Manifest, provenance: dict[str, Any], *, where: str) -> None:
    """Rejects a multi-label model on single-label data and vice versa: their outputs differ in meaning."""
    multi_label = bool(provenance.get("multi_label", False))
    if multi_label != manifest.multi_label:
        kinds = {True: "a list of labels", False: "one label"}
        raise InvalidDataError(
            f"images of the dataset have {kinds[manifest.multi_label]}, but the model was trained on images "
            f"with {kinds[multi_label]}",
            where=where,
            remedy=f"convert the data with multi_label={str(multi_label).lower()}, or use another model",
        )


def _check_complete(provenance: Mapping[str, Any], *, where: str) -> None:
    """Rejects a model of another version, whose provenance.json lacks what the evaluation needs."""
    missing = [name for name in ("temperature", "label_sets") if name not in provenance]
    if missing:
        raise InvalidDataError(
            f"provenance.json has no {' and no '.join(missing)}: another version of imgpipe trained "
            "the model",
            where=where,
            remedy="train the model again with this version, or evaluate it with its own",
        )


def _classes_by_label(model: ServedModel, manifest: Manifest, *, where: str) -> NDArray[np.int64]:
    """Returns the model's class for each class of the dataset, matched by label name.

    The dataset may lack labels of the model, or have them in another order.

    Raises:
        InvalidDataError: with both lists, if the dataset has a label that the model does not have.
    """
    if set(manifest.labels) <= set(model.labels):
        classes = {label: index for index, label in enumerate(model.labels)}
        if model.labels != manifest.labels:
            log_event(
                "labels_matched",
                f"evaluate: the labels of the dataset ({manifest.num_classes}) are matched by name with "
                f"those of the model ({len(model.labels)})",
                severity="WARNING",
            )
        return np.array([classes[label] for label in manifest.labels], np.int64)
    check_labels(model, manifest.labels, where=where)
    return np.arange(manifest.num_classes)


def _comparison(
    folder: Path | None,
    challenger: ServedModel,
    dataset_folder: Path,
    split: Split,
    class_of: NDArray[np.int64],
    manifest: Manifest,
    predictions: _Predictions,
) -> Comparison | None:
    if folder is None:
        return None
    champion = load_served_model(folder)
    check_labels(champion, challenger.labels, where=str(folder))
    theirs = _predict(champion, dataset_folder, split, class_of, manifest, SliceReader(manifest))
    return compare(theirs.correct[predictions.has_label], predictions.correct[predictions.has_label])


def _log(evaluation: Evaluation) -> None:
    metrics, comparison = evaluation.metrics, evaluation.comparison
    versus = ""
    if comparison is not None:
        versus = (
            f"; champion {comparison.champion_top_1_accuracy:.4f}, difference {comparison.difference:+.4f} "
            f"(95% CI {comparison.lower:+.4f} to {comparison.upper:+.4f})"
        )
    interval, test = evaluation.top_1_accuracy_interval, evaluation.test
    held_out = ""
    if test is not None:
        bounds = test.top_1_accuracy_interval
        held_out = (
            f"; {test.top_1_accuracy:.4f} on {plural(test.examples, 'image')} of {TEST} "
            f"(95% CI {bounds.lower:.4f} to {bounds.upper:.4f})"
        )
    average = ""
    if isinstance(metrics, MultiLabelMetrics):
        average = f"mean average precision {metrics.mean_average_precision:.4f}, "
    log_result(
        "evaluate",
        f"{average}top-1 accuracy {metrics.top_1_accuracy:.4f} on {plural(metrics.examples, 'image')}"
        f" of {evaluation.split} (95% CI {interval.lower:.4f} to {interval.upper:.4f}){held_out}{versus}",
        **evaluation.figures(),
    )


def _predict(
    model: ServedModel,
    folder: Path,
    split: Split,
    class_of: NDArray[np.int64],
    manifest: Manifest,
    reader: SliceReader,
) -> _Predictions:
    progress = Progress("evaluate", split.examples, "images")
    records = read_split(folder, split, multi_label=manifest.multi_label)
    labels: list[tuple[int, ...]] = []
    slices: list[tuple[tuple[str, str], ...]] = []
    names: list[str] = []
    numbers = chain(record_names(split), repeat(""))
    probabilities: list[NDArray[np.float32]] = []
    while batch := list(islice(records, _BATCH_SIZE)):
        try:
            predicted = model.predict([record.encoded for record in batch])
        except InvalidDataError as error:
            raise _locate_failure(error, model, batch, folder, split, first=len(labels)) from None
        labels.extend(record.all_labels for record in batch)
        slices.extend(reader.slices_of(record) for record in batch)
        names.extend(record.filename or number for record, number in zip(batch, numbers, strict=False))
        probabilities.append(predicted.probabilities)
        progress.update(len(labels))
    stacked = np.concatenate(probabilities)
    if not manifest.multi_label:
        return _Predictions(class_of[[label_to_class(label) for (label,) in labels]], stacked, slices, names)
    targets = np.zeros(stacked.shape, bool)
    for index, image_labels in enumerate(labels):
        targets[index, class_of[[label_to_class(label) for label in image_labels]]] = True
    return _Predictions(targets, stacked, slices, names)


def _locate_failure(
    error: InvalidDataError,
    model: ServedModel,
    batch: Sequence[ImageRecord],
    folder: Path,
    split: Split,
    *,
    first: int,
) -> InvalidDataError:
    """Returns the error with the record that made a batch fail, found by predicting one image at a time."""
    for index, record in enumerate(batch, start=first):
        try:
            model.predict([record.encoded])
        except InvalidDataError as single:
            name = f" ({record.filename})" if record.filename else ""
            return InvalidDataError(
                single.problem, where=locate_record(folder, split, index) + name, remedy=single.remedy
            )
    return error
