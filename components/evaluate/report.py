"""The HTML report of an evaluation, in one self-contained file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.html_page import (
    LineChart,
    Series,
    Thumbnail,
    line_chart,
    percent,
    render,
    thumbnail_source,
)
from imgpipe.components.evaluate.calibration import Calibration, TemperatureScaling
from imgpipe.components.evaluate.comparison import Comparison
from imgpipe.components.evaluate.held_out import HeldOutMetrics, Interval, SetMetrics
from imgpipe.components.evaluate.metrics import Metrics, most_confused_pairs
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics
from imgpipe.components.evaluate.slices import SliceMetrics

# A larger matrix is unreadable; the most confused pairs are shown instead.
MAX_MATRIX_CLASSES = 50
MAX_CONFUSED_PAIRS = 30
_MISTAKE_PIXELS = 160
_ACCURACIES = {"top_1_accuracy": "top-1, validation"}
_MULTI_LABEL_ACCURACIES = {**_ACCURACIES, "mean_average_precision": "mean average precision"}


@dataclass(frozen=True)
class Mistake:
    """An incorrectly predicted image.

    Attributes:
        image: The content of the image file.
        filename: Its source; may be empty.
        true_label: The name of its label.
        predicted_label: The name of the predicted label.
        probability: The probability of the predicted label, 0..1.
    """

    image: bytes
    filename: str
    true_label: str
    predicted_label: str
    probability: float


def evaluation_report(
    metrics: Metrics | MultiLabelMetrics,
    labels: Sequence[str],
    *,
    manifest: Manifest,
    provenance: Mapping[str, Any],
    mistakes: Sequence[Mistake] = (),
    split: str = "validation",
    top_1_accuracy_interval: Interval | None = None,
    test: HeldOutMetrics | None = None,
    calibration: Calibration | None = None,
    temperature_scaling: TemperatureScaling | None = None,
    label_sets: SetMetrics | None = None,
    slices: Sequence[SliceMetrics] = (),
    comparison: Comparison | None = None,
) -> str:
    """Returns the report on the quality and the mistakes of a model.

    Args:
        metrics: The model's metrics; ``MultiLabelMetrics`` have their own layout.
        labels: The N label names, in the order of the classes.
        manifest: The dataset's manifest, for the number of images per split and label.
        provenance: The model's provenance, with these optional keys: ``arguments`` ({name: value}),
            ``evaluations`` (a list of mappings with ``step``, ``top_1_accuracy``, ``top_5_accuracy``,
            ``loss``, ``train_loss``, each of which may be missing or None), ``best_step``, ``model_type``,
            ``data_digest``, ``versions`` ({name: version}).
        mistakes: The worst mistakes, in the order of display.
        split: The name of the evaluated split.
        top_1_accuracy_interval: The confidence interval of the accuracy on it.
        test: The figures on the test split, if it was measured too.
        calibration: The calibration, if available.
        temperature_scaling: What the model's temperature changes in it, if the model has one.
        label_sets: The metrics of the model's label sets, if it has any.
        slices: Accuracy by slice, grouped by name.
        comparison: The comparison with the champion, if there is one.

    Returns:
        The HTML of the page.
    """
    evaluations = [dict(entry) for entry in provenance.get("evaluations") or ()]
    best_step = _number(provenance.get("best_step"))
    confusion: dict[str, Any] = {}
    if isinstance(metrics, Metrics):
        show_matrix = len(labels) <= MAX_MATRIX_CLASSES
        pairs = () if show_matrix else most_confused_pairs(metrics, MAX_CONFUSED_PAIRS)
        confusion = {
            "matrix": metrics.confusion_matrix().tolist() if show_matrix else None,
            "pairs": [(labels[pair.true_class], labels[pair.predicted_class], pair.count) for pair in pairs],
        }
    return render(
        "evaluation.html" if confusion else "multi_label_evaluation.html",
        "imgpipe.components.evaluate",
        metrics=metrics,
        labels=tuple(labels),
        split=split,
        top_1_accuracy_interval=top_1_accuracy_interval,
        test=test,
        model_type=provenance.get("model_type"),
        data_digest=str(provenance.get("data_digest") or manifest.digest()),
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
        per_class=list(zip(labels, metrics.per_class, strict=True)),
        **confusion,
        wrong=metrics.wrong,
        mistakes=[_thumbnail(mistake) for mistake in mistakes],
        arguments=dict(provenance.get("arguments") or {}),
        versions=dict(provenance.get("versions") or {}),
        manifest=manifest,
        calibration=calibration,
        calibration_chart=_reliability(calibration, temperature_scaling) if calibration else None,
        temperature_scaling=temperature_scaling,
        label_sets=label_sets,
        slices=slices,
        comparison=comparison,
    )


def _curve(
    evaluations: Sequence[Mapping[str, Any]],
    best_step: float | None,
    names: Mapping[str, str],
    y_name: str,
    y_maximum: float | None,
) -> LineChart:
    series = []
    for key, name in names.items():
        points = [(_number(entry.get("step")), _number(entry.get(key))) for entry in evaluations]
        series.append(Series(name, tuple((x, y) for x, y in points if x is not None and y is not None)))
    marker = (best_step, f"best: step {best_step:g}") if best_step is not None else None
    return line_chart(series, x_name="training step", y_name=y_name, marker=marker, y_maximum=y_maximum)


def _reliability(calibration: Calibration, scaling: TemperatureScaling | None) -> LineChart:
    curves = {"this model": calibration, **({"without temperature": scaling.before} if scaling else {})}
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


def _thumbnail(mistake: Mistake) -> Thumbnail:
    return Thumbnail(
        source=thumbnail_source(mistake.image, pixels=_MISTAKE_PIXELS),
        captions=(
            f"predicted {mistake.predicted_label}, {percent(mistake.probability)}",
            f"label {mistake.true_label}",
            mistake.filename,
        ),
        title=mistake.filename,
    )


def _number(value: Any) -> float | None:
    """Returns the value as a float, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
