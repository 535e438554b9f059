"""The HTML report of an evaluation, in one self-contained file."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.dataset import Manifest, in_usual_order
from imgpipe.components.common.html_page import LineChart, Series, line_chart, render
from imgpipe.components.common.plural import plural
from imgpipe.components.evaluate.calibration import Calibration, TemperatureScaling
from imgpipe.components.evaluate.evaluation import Evaluation
from imgpipe.components.evaluate.examples import MAX_MATRIX_CLASSES, Example
from imgpipe.components.evaluate.metrics import ClassMetrics, Metrics, most_confused_pairs
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics
from imgpipe.components.evaluate.thresholds import STEPS, ThresholdCounts

MAX_CONFUSED_PAIRS = 30
# Of more classes, only the worst are in the table: metrics.json has all of them.
_MAX_CLASS_ROWS = 1000
_ACCURACIES = {"top_1_accuracy": "top-1, validation"}
_MULTI_LABEL_ACCURACIES = {**_ACCURACIES, "mean_average_precision": "mean average precision"}
# What the source of a data set has besides names of files and folders.
_NOT_NAMES = ("form", "columns", "label_from")
# Where a local run adds what is known only at its end; in the template.
_RUN_MARK = "<!-- run -->"


@dataclass(frozen=True)
class _ClassRow:
    name: str
    metrics: ClassMetrics
    images: tuple[int | None, ...]


def evaluation_report(
    evaluation: Evaluation,
    *,
    manifest: Manifest,
    provenance: Mapping[str, Any],
    thresholds: Sequence[ThresholdCounts],
    examples: Sequence[Example] = (),
    about: Mapping[str, str] | None = None,
) -> str:
    """Returns the report on the quality and the mistakes of a model, as HTML.

    Args:
        evaluation: The result; ``MultiLabelMetrics`` have their own layout.
        manifest: The dataset's manifest, for the number of images per split and label.
        provenance: The model's provenance, with these optional keys: ``arguments`` ({name: value}),
            ``evaluations`` (of the training), ``best_step``, ``model_type``, ``data_digest``, ``versions``
            ({name: version}), ``decisions`` (sentences of the training), ``model_race`` (a ``Race``).
        thresholds: The counts by threshold, of all classes first.
        examples: Mistakes, in the order of display, and correct predictions for the confusion matrix.
        about: Facts about the evaluation, by name, e.g. its date.
    """
    manifest = dataclasses.replace(manifest, splits=in_usual_order(manifest.splits))
    evaluations, best_step = provenance.get("evaluations", ()), provenance.get("best_step")
    metrics, labels = evaluation.metrics, evaluation.labels
    confusion: dict[str, Any] = {}
    if isinstance(metrics, Metrics):
        show_matrix = len(labels) <= MAX_MATRIX_CLASSES
        confusion = {
            "matrix": metrics.confusion_matrix().tolist() if show_matrix else None,
            "pairs": () if show_matrix else most_confused_pairs(metrics, MAX_CONFUSED_PAIRS),
        }
    rows = _class_rows(metrics, labels, manifest)
    return render(
        "evaluation.html" if confusion else "multi_label_evaluation.html",
        "imgpipe.components.evaluate",
        scripts=("evaluation.js",),
        **vars(evaluation),
        about={"data set": _describe_data(manifest), **(about or {})},
        model_type=provenance.get("model_type"),
        data_digest=provenance.get("data_digest") or manifest.digest(),
        best_step=best_step,
        accuracy_chart=_curve(
            evaluations,
            best_step,
            _ACCURACIES if confusion else _MULTI_LABEL_ACCURACIES,
            "top-1 accuracy",
            1.0,
        ),
        loss_chart=_curve(
            evaluations, best_step, {"train_loss": "training", "loss": "validation"}, "loss", None
        ),
        class_rows=rows[:_MAX_CLASS_ROWS],
        **confusion,
        multi_label=not confusion,
        mistakes=[example for example in examples if not example.is_correct],
        correct=[example for example in examples if example.is_correct],
        thresholds=[dataclasses.asdict(counts) for counts in thresholds],
        threshold_chart=_threshold_chart(thresholds[0]),
        arguments=provenance.get("arguments"),
        versions=provenance.get("versions"),
        manifest=manifest,
        calibration_chart=_reliability(evaluation.calibration, evaluation.temperature_scaling),
        decisions=provenance.get("decisions"),
        model_race=provenance.get("model_race"),
    )


def _curve(
    evaluations: Sequence[Mapping[str, Any]],
    best_step: int | None,
    names: Mapping[str, str],
    y_name: str,
    y_maximum: float | None,
) -> LineChart:
    series = [
        Series(name, tuple((entry["step"], entry[key]) for entry in evaluations))
        for key, name in names.items()
    ]
    marker = None if best_step is None else (best_step, f"best: step {best_step}")
    return line_chart(series, x_name="training step", y_name=y_name, marker=marker, y_maximum=y_maximum)


def _reliability(calibration: Calibration, scaling: TemperatureScaling) -> LineChart:
    curves = {"this model": calibration, "without temperature": scaling.before}
    series = [
        Series(
            name,
            tuple(
                (part.confidence, part.accuracy)
                for part in curve.bins
                if part.confidence is not None and part.accuracy is not None
            ),
        )
        for name, curve in curves.items()
    ]
    return line_chart(
        [*series, Series("perfect calibration", ((0.0, 0.0), (1.0, 1.0)))],
        x_name="predicted probability",
        y_name="accuracy",
        y_maximum=1.0,
    )


def _class_rows(
    metrics: Metrics | MultiLabelMetrics, labels: Sequence[str], manifest: Manifest
) -> list[_ClassRow]:
    """Returns the classes with their number of images in each split, those with the lowest F1 first."""
    numbers = {label: index for index, label in enumerate(manifest.labels)}
    rows = [
        _ClassRow(
            label,
            of_class,
            tuple(
                split.images_per_label[numbers[label]] if label in numbers else None
                for split in manifest.splits.values()
            ),
        )
        for label, of_class in zip(labels, metrics.per_class, strict=True)
    ]
    return sorted(rows, key=lambda row: (row.metrics.f1 is None, row.metrics.f1))


def _describe_data(manifest: Manifest) -> str:
    """Returns the names that the data set's source has in its manifest, and the number of its images."""
    source = manifest.made_by.get("source") or {}
    names = [str(value) for name, value in source.items() if value and name not in _NOT_NAMES]
    images = plural(sum(split.examples for split in manifest.splits.values()), "image")
    return ", ".join([*names, images, plural(manifest.num_classes, "label")])


def _threshold_chart(counts: ThresholdCounts) -> LineChart:
    steps = range(STEPS + 1)
    series = []
    for name, fraction in (("precision", counts.precision), ("recall", counts.recall)):
        values = [(step / STEPS, fraction(step)) for step in steps]
        series.append(Series(name, tuple((x, y) for x, y in values if y is not None)))
    return line_chart(series, x_name="threshold", y_name="precision, recall", y_range=(0.0, 1.0))


def add_run(
    page: str,
    about: Mapping[str, str],
    *,
    gate: Mapping[str, Any] | None,
    deployment: str,
    deployed: bool,
) -> str:
    """Returns the page with what is known only at the end of its run.

    Args:
        page: A page of ``evaluation_report``.
        about: Facts about the run, by name, e.g. its command.
        gate: The gate's ``passed``, ``summary`` and ``checks`` (each ``name``, ``passed`` and ``reason``);
            None if it made no decision.
        deployment: What the deployment did, or its error; empty if there was none.
        deployed: Whether it succeeded.
    """
    section = render(
        "run.html",
        "imgpipe.components.evaluate",
        about=about,
        gate=gate,
        deployment=deployment,
        deployed=deployed,
    )
    # Without a regular expression: the section may contain backslashes.
    before, mark, after = page.partition(_RUN_MARK)
    # A report of an earlier attempt already has its section.
    return before + section + after if mark else page
