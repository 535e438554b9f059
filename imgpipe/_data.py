"""Data sets from Python: convert labeled images to TFRecord shards, validate and audit them."""

import csv
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from imgpipe._arguments import AuditOptions, ConvertOptions, ValidateOptions
from imgpipe._options import check_options, checked_path, list_options
from imgpipe._progress import display
from imgpipe._report import Report
from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.common.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    Manifest,
    read_manifest_at,
    with_absolute_paths,
)
from imgpipe.components.common.errors import PipelineError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.output_folder import LABELS_NAME
from imgpipe.components.storage import parse_location
from imgpipe.components.train.command_line import shards_pattern
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.pipelines.local_step import run_step


@dataclass(frozen=True, init=False)
class Dataset:
    """A data set of TFRecord shards with their manifest.

    Attributes:
        path: The folder with manifest.json, local, ``gs://`` or ``s3://``.
    """

    path: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        remedy = "use the folder that convert wrote, or the dataset of a run"
        object.__setattr__(self, "path", checked_path("dataset", path, remedy=remedy))

    @classmethod
    def _of(cls, dataset: "Dataset | str | os.PathLike[str]") -> "Dataset":
        """Returns the data set that a parameter names."""
        return dataset if isinstance(dataset, Dataset) else cls(dataset)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names; ``labels[i]`` is class ``i`` of the model and ``i + 1`` in the records."""
        return self._manifest().labels

    @property
    def image_counts(self) -> dict[str, int]:
        """The number of images of each split: ``train``, ``validation`` and, if there is one, ``test``."""
        return {name: split.examples for name, split in self._manifest().splits.items()}

    @property
    def images_per_label(self) -> dict[str, dict[str, int]]:
        """The number of images of each label, by split."""
        manifest = self._manifest()
        return {
            name: dict(zip(manifest.labels, split.images_per_label, strict=True))
            for name, split in manifest.splits.items()
        }

    def _training_options(self) -> dict[str, Any]:
        """Returns the options that make a pipeline train on this data set."""
        folder = parse_location(self.path).absolute()
        manifest = with_absolute_paths(self._manifest(), folder)
        paths = {
            name: shards_pattern([s.path for s in split.shards]) for name, split in manifest.splits.items()
        }
        test = {"test_data_path": paths[TEST]} if TEST in paths else {}
        return {
            "training_data_path": paths[TRAIN],
            "validation_data_path": paths[VALIDATION],
            **test,
            "labels_file": str(folder / LABELS_NAME),
            "multi_label": manifest.multi_label,
        }

    def _manifest(self) -> Manifest:
        return read_manifest_at(parse_location(self.path))


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        findings: Each with ``severity`` (``error`` or ``warning``), ``kind``, ``problem``, ``where`` and
            ``remedy``; errors first.
        report: The page with class balance, image sizes, sample pictures and findings.
    """

    findings: tuple[dict[str, Any], ...]
    report: Report

    @property
    def ok(self) -> bool:
        """Whether there is no error: a training run can use the data."""
        return not self.errors

    @property
    def errors(self) -> tuple[dict[str, Any], ...]:
        """The findings that would make a training run fail or its model wrong."""
        return tuple(finding for finding in self.findings if finding["severity"] == "error")

    @property
    def warnings(self) -> tuple[dict[str, Any], ...]:
        """The findings that are suspicious but do not stop a training run."""
        return tuple(finding for finding in self.findings if finding["severity"] == "warning")

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        findings: The rows of the table of decisions: each with ``path``, ``finding``, ``score``,
            ``suggestion``, ``label``, ``split`` and ``copy_of``, as text; the likeliest of each kind first.
        shortcuts: Labels that a property of the files gives away, each with ``label``, ``trait``, ``value``,
            ``share`` (of the label's images), ``share_of_others`` and ``advantage``.
        decisions: The table, with an empty column ``action``, for ``decisions`` of ``convert`` and ``run``.
        report: The page with pictures.
    """

    findings: tuple[dict[str, str], ...]
    shortcuts: tuple[dict[str, Any], ...]
    decisions: Path
    report: Report

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@list_options((ConvertArguments,))
def convert(
    output_dir: str | os.PathLike[str], *, progress: bool = True, **options: Unpack[ConvertOptions]
) -> Dataset:
    """Makes a data set of labeled images: TFRecord shards and a manifest.

    The images come as ``images`` (a folder with a subfolder for each label) or as ``train_csv`` and
    ``validation_csv``. Every image is opened and checked. The same input gives the same bytes.

    Args:
        output_dir: A folder that is empty or does not exist, local, ``gs://`` or ``s3://``.
        progress: Whether to show progress, in the notebook or on stderr.
        **options: The convert step's other arguments, listed below.

    Raises:
        InvalidArgumentError: for an unknown or wrong argument, before any work.
        PipelineError: if the step fails; the subclass says whether a retry can help, ``remedy`` what to do.
    """
    folder = checked_path("output_dir", output_dir, remedy="name a folder that is empty or does not exist")
    values = check_options((ConvertArguments,), {**options, "output_dir": folder})
    ConvertArguments(**values)
    run_step("convert", values, display(progress))
    return Dataset(folder)


@list_options((ValidateArguments,))
def validate(
    dataset: Dataset | str | os.PathLike[str],
    *,
    report: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Unpack[ValidateOptions],
) -> Validation:
    """Reads every record of a data set and returns what is wrong or suspicious about it.

    Args:
        dataset: What ``convert`` returned, or the folder with its manifest.json.
        report: The HTML file to write; None = a file in a new temporary folder.
        progress: Whether to show progress, in the notebook or on stderr.
        **options: What the training will require of the data, listed below. Without ``train_batch_size``,
            the number of images is not compared with the batch size; without ``model_type`` and
            ``image_size``, the size of the images is not compared with that of training.

    Raises:
        InvalidArgumentError: for an unknown or wrong argument, before any work.
        MissingInputError: if there is no data set in the folder.
        PipelineError: if the data cannot be read. Errors in the data are returned, not raised.
    """
    values = check_options((ValidateArguments,), options)
    # The data are not checked against the default batch size of a training run that may use another.
    values.setdefault("train_batch_size", 1)
    ValidateArguments(**values)
    folder = Dataset._of(dataset).path
    page = Path(report or Path(tempfile.mkdtemp(prefix="imgpipe-"), "validation.html"))
    with tempfile.TemporaryDirectory(prefix="imgpipe-") as scratch:
        summary = Path(scratch, "validation.json")
        files = {"dataset": folder, "report": str(page), "summary": str(summary)}
        try:
            run_step("validate", {**values, **files}, display(progress))
        except PipelineError:
            # Without a summary the data could not be read; with one, it holds the errors.
            if not summary.exists():
                raise
        findings = json.loads(summary.read_text(encoding="utf-8"))["findings"]
    return Validation(tuple(findings), Report(page))


@list_options((AuditArguments,))
def audit(
    dataset: Dataset | str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Unpack[AuditOptions],
) -> Audit:
    """Returns what is likely wrong with a data set: labels, copies, useless images; and changes nothing.

    Args:
        dataset: What ``convert`` returned, or the folder with its manifest.json.
        output: The folder for the page and the table of decisions; None = a new temporary folder. An audit in
            the same folder again does not compute the features of the same images again.
        progress: Whether to show progress, in the notebook or on stderr.
        **options: How the images are compared, listed below.

    Raises:
        InvalidArgumentError: for an unknown or wrong argument, before any work.
        UnavailableError: if the network's weights are not on this machine and cannot be downloaded.
        OutputError: if the folder has a table with decisions, which would be overwritten.
        PipelineError: if the data cannot be read.
    """
    values = check_options((AuditArguments,), options)
    AuditArguments(**values)
    folder = Dataset._of(dataset).path
    files = Path(output or tempfile.mkdtemp(prefix="imgpipe-"))
    run_step("audit", {**values, "dataset": folder, "output": files}, display(progress))
    with (files / "decisions.csv").open(encoding="utf-8", newline="") as table:
        rows = [{name: row[name] for name in row if name != "action"} for row in csv.DictReader(table)]
    shortcuts = json.loads((files / "audit.json").read_text(encoding="utf-8"))["shortcuts"]
    return Audit(tuple(rows), tuple(shortcuts), files / "decisions.csv", Report(files / "audit.html"))
