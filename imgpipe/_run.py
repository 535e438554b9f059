"""Whole runs from Python: train, or search hyperparameters, on this machine."""

import html
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from imgpipe._arguments import RunOptions, TuneOptions
from imgpipe._data import Dataset
from imgpipe._model import Prediction, load
from imgpipe._options import check_options, checked_path, list_options
from imgpipe._progress import display
from imgpipe._report import Report
from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.storage import local_path
from imgpipe.pipelines.local_pipeline import RETRAIN, TRAIN, TUNE, LocalPipeline, prepare_run, run_prepared
from imgpipe.pipelines.run_folder import RunFolder

_EXAMPLE_SPACE = '{"initial_learning_rate": "log:0.001:0.2"}'


@dataclass(frozen=True, init=False, repr=False)
class Run:
    """A finished run on this machine; ``Run(folder)`` opens an earlier one.

    ``Run(folder)`` raises ``MissingInputError`` if there is no such folder.

    Attributes:
        folder: The run's folder, its ``job_dir``.
    """

    folder: Path

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        remedy = "use the folder of a run, its job_dir"
        path = local_path(checked_path("folder", folder, remedy=remedy))
        if not path.is_dir():
            raise MissingInputError(f"there is no folder {str(path)!r}", remedy=remedy)
        object.__setattr__(self, "folder", path)

    @property
    def model(self) -> Path:
        """The folder of the best SavedModel; ``imgpipe.load`` loads it."""
        return self._files.model

    @property
    def report(self) -> Report:
        """The HTML report on the model: accuracy, learning curve, each class, the mistakes."""
        return Report(self._files.report)

    @property
    def data_report(self) -> Report:
        """The HTML report on the data: class balance, image sizes, findings."""
        return Report(self._files.data_report)

    @property
    def log(self) -> Path:
        """Everything that the steps printed."""
        return self._files.log

    @property
    def dataset(self) -> Dataset:
        """The data set that the run trained on."""
        return Dataset(str(self._artifact("convert", "dataset")))

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The model's figures on all validation images, by name.

        ``top_1_accuracy``, ``top_5_accuracy``, ``loss`` (mean cross-entropy in nats), ``macro_precision``,
        ``macro_recall``, ``macro_f1``, ``expected_calibration_error`` and ``examples``, the number of images;
        for a multi-label data set ``mean_average_precision`` and ``f1``, among others. Undefined ones are
        left out. ``test_top_1_accuracy``, if there is a test split, is the accuracy on it.
        """
        figures = {
            name: float(value)
            for name, value in self._evaluation.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        calibration = self._evaluation.get("calibration")
        if calibration:
            figures["expected_calibration_error"] = calibration["expected_calibration_error"]
        if test := self._evaluation.get("test"):
            figures["test_top_1_accuracy"] = test["top_1_accuracy"]
        return figures

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names, in the order of the classes 0..N-1."""
        return tuple(self._evaluation["labels"])

    @property
    def per_class(self) -> dict[str, dict[str, Any]]:
        """``precision``, ``recall``, ``f1``, ``support`` and ``predicted`` by label; None where undefined."""
        return dict(zip(self.labels, self._evaluation["per_class"], strict=True))

    @property
    def confusion_matrix(self) -> NDArray[np.int64] | None:
        """The number of images, int64 [labels, labels]: ``[true, predicted]``; None for multi-label data."""
        if "confusion" not in self._evaluation:
            return None
        matrix = np.zeros((len(self.labels), len(self.labels)), np.int64)
        for true, predicted, count in self._evaluation["confusion"]:
            matrix[true, predicted] = count
        return matrix

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The trials of ``tune``, as trials.json has them; empty for a run without a search."""
        if not self._files.trials.exists():
            return []
        trials: list[dict[str, Any]] = json.loads(self._files.trials.read_text(encoding="utf-8"))["trials"]
        return trials

    def predictions(self, *, progress: bool = True) -> list[Prediction]:
        """Predicts every image that the metrics were measured on, with its true labels.

        Returns:
            The predictions, in the data set's order; ``key`` is the image's file name.

        Raises:
            MissingInputError: if the run's ``artifacts`` folder was deleted.
        """
        from imgpipe.components.common.dataset import read_manifest
        from imgpipe.components.common.dataset_reader import local_dataset, read_split
        from imgpipe.components.common.served_model import BATCH_SIZE

        model = load(self.model)
        predictions: list[Prediction] = []
        name = self._evaluation["split"]
        with local_dataset(Path(self.dataset.path), name) as folder, display(progress) as shown:
            started = time.monotonic()
            manifest = read_manifest(folder)
            split = manifest.splits[name]
            shown.show({"event": "step_started", "step": "predict", "severity": "INFO"})
            records = read_split(folder, split, multi_label=manifest.multi_label)
            while batch := list(islice(records, BATCH_SIZE)):
                for record, prediction in zip(batch, model.predict([r.encoded for r in batch]), strict=True):
                    true_labels = tuple(manifest.labels[label - 1] for label in record.all_labels)
                    predictions.append(replace(prediction, key=record.filename, true_labels=true_labels))
                shown.show(_progress_event(len(predictions), split.examples))
            shown.show({**_progress_event(len(predictions), split.examples), "event": "step_result"})
            shown.step_finished("predict", time.monotonic() - started)
        return predictions

    def __repr__(self) -> str:
        """Returns the folder and the accuracy."""
        return f"Run({str(self.folder)!r}, top_1_accuracy={self._accuracy})"

    def _repr_html_(self) -> str:
        accuracy = self._accuracy
        rows = (("top-1 accuracy", accuracy), ("model", self.model), ("report", self.report))
        cells = (f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
        return f"<table>{''.join(cells)}</table>"

    @property
    def _accuracy(self) -> str:
        try:
            return f"{self.metrics['top_1_accuracy']:.4f}"
        except MissingInputError:
            return "unknown"

    @property
    def _files(self) -> RunFolder:
        return RunFolder(self.folder)

    @cached_property
    def _evaluation(self) -> dict[str, Any]:
        path = self._artifact("evaluate", "evaluation") / "metrics.json"
        evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return evaluation

    def _artifact(self, step: str, name: str) -> Path:
        found = sorted(self._files.artifacts.glob(f"*/{step}/{name}"))
        if not found:
            raise MissingInputError(
                f"{str(self.folder)!r} contains no output of the {step} step",
                remedy="use the folder of a finished run, whose artifacts were not deleted",
            )
        return found[-1]


@list_options(RETRAIN.inputs, recipes=True)
def run(
    *,
    dataset: Dataset | str | os.PathLike[str] | None = None,
    retrain: bool = False,
    progress: bool = True,
    **options: Unpack[RunOptions],
) -> Run:
    """Runs the whole pipeline on this machine: convert, validate, train, evaluate, export, gate, deploy.

    The data comes as ``images`` (a folder with a subfolder for each label), as ``train_csv`` and
    ``validation_csv``, or as ``training_data_path`` and ``validation_data_path`` (TFRecord files). Without
    any of them it trains on scikit-learn's digits, in about two minutes.

    Args:
        dataset: What ``convert`` returned, or its folder; in place of images.
        retrain: Start from the weights of the model that is deployed at ``deploy_dir``.
        progress: Whether to show progress, in the notebook or on stderr.
        **options: Any argument of the pipeline by name, listed below.

    Returns:
        The finished run. Its model is the best evaluation's, not the last one's.

    Raises:
        InvalidArgumentError: for an unknown or wrong argument, before anything is written.
        InterruptedRunError: if the run was interrupted; with the same ``job_dir`` it resumes. After Ctrl-C or
            the notebook's stop button it is a ``KeyboardInterrupt`` as well.
        PipelineError: if a step failed; ``remedy`` says what to do.
    """
    if "tune" in options:
        raise InvalidArgumentError("imgpipe.run has no option 'tune'", remedy="use imgpipe.tune")
    return _run(RETRAIN if retrain else TRAIN, options, dataset, progress)


@list_options(TUNE.inputs, recipes=True)
def tune(
    search_space: Mapping[str, str | Iterable[Any]] | None = None,
    *,
    dataset: Dataset | str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Unpack[TuneOptions],
) -> Run:
    """Trains many times with different hyperparameters, on this machine, and keeps the best model.

    Args:
        search_space: By argument, what to try: a range ``"0.001:0.2"``, a range on a logarithmic scale
            ``"log:0.001:0.2"``, or a list of values. None = as ``hyperparameters`` says or, without it, the
            learning rate, weight decay, augmentation and network, around the values of the recipe.
        dataset: What ``convert`` returned, or its folder; in place of images.
        progress: Whether to show progress, in the notebook or on stderr.
        **options: Any argument of the tuning pipeline by name, listed below.

    Returns:
        The finished run of the best trial; ``trials`` has all of them.

    Raises:
        InvalidArgumentError: for an unknown or wrong argument, before anything is written.
        InterruptedRunError: as in ``run``.
        PipelineError: if a step failed; ``remedy`` says what to do.
    """
    arguments: dict[str, Any] = {**options}
    if "tune" in arguments:
        raise InvalidArgumentError(
            f"imgpipe.tune has no option 'tune' ({arguments['tune']!r})", remedy="use search_space"
        )
    if search_space is not None and not isinstance(search_space, Mapping):
        raise InvalidArgumentError(
            f"search_space={search_space!r} is not a dict", remedy=f"pass search_space, e.g. {_EXAMPLE_SPACE}"
        )
    if search_space:
        spaces = (f"{name}={_values(name, values)}" for name, values in search_space.items())
        arguments["tune"] = "; ".join(spaces)
    return _run(TUNE, arguments, dataset, progress)


def _run(
    pipeline: LocalPipeline,
    options: Mapping[str, Any],
    dataset: Dataset | str | os.PathLike[str] | None,
    progress: bool,
) -> Run:
    if dataset is not None:
        data = Dataset._of(dataset)._training_options()
        if both := sorted({"images", "train_csv", *data} & options.keys()):
            raise InvalidArgumentError(
                f"dataset and {both[0]} cannot both be set", remedy=f"omit dataset or {both[0]}"
            )
        options = {**options, **data}
    prepared = prepare_run(pipeline, check_options(pipeline.inputs, options))
    for warning in prepared.warnings:
        warnings.warn(warning, stacklevel=3)
    run_prepared(prepared, display(progress, prepared.title))
    return Run(prepared.folder.job_dir)


def _progress_event(done: int, total: int) -> dict[str, Any]:
    images = f"{done:,} of {total:,} images"
    return {
        "event": "progress",
        "severity": "INFO",
        "step": "predict",
        "message": f"predict: {images}",
        "done": done,
        "total": total,
        "unit": "images",
        "result": images,
    }


def _values(name: str, values: str | Iterable[Any]) -> str:
    if isinstance(values, str):
        return values
    if not isinstance(values, Iterable) or isinstance(values, tuple):
        # A tuple is a range for some libraries, and two values for others.
        raise InvalidArgumentError(
            f"search_space[{name!r}]={values!r} is not a range or a list",
            remedy='use "0.001:0.2" or "log:0.001:0.2" for a range, [16, 32] for values, '
            f"or the option {name} for a single value",
        )
    return ",".join(map(str, values))
