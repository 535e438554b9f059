"""The evaluation as one HTML page that stands alone."""

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
from imgpipe.components.evaluate.calibration import Calibration
from imgpipe.components.evaluate.comparison import Comparison
from imgpipe.components.evaluate.metrics import Metrics, most_confused_pairs
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics
from imgpipe.components.evaluate.slices import SliceMetrics

# A matrix of more classes than this is a grey square; the pairs say more.
LARGEST_MATRIX = 50
CONFUSED_PAIRS = 30
_MISTAKE_PIXELS = 160
_ACCURACIES = {"top_1_accuracy": "top-1, validation"}
_MULTI_LABEL_ACCURACIES = {**_ACCURACIES, "mean_average_precision": "mean average precision"}


@dataclass(frozen=True)
class Mistake:
    """An image that the model got wrong.

    Attributes:
        image: The image file's bytes.
        filename: Where it came from; may be empty.
        true_label: The name of its label.
        predicted_label: The name of the label that the model gave.
        probability: That the model gave to the predicted label, 0..1.
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
    calibration: Calibration | None = None,
    slices: Sequence[SliceMetrics] = (),
    comparison: Comparison | None = None,
) -> str:
    """Writes the page that says how good a model is and where it errs.

    Args:
        metrics: Of the evaluation; those of several labels an image make another page.
        labels: The N names, in the order of the classes.
        manifest: Of the data: the counts per split and label.
        provenance: What is known of the training; each of these keys may be missing:
            ``arguments`` ({name: value}), ``evaluations`` (a list of objects with ``step``,
            ``top_1_accuracy``, ``top_5_accuracy``, ``loss``, ``train_loss``, each of which may be
            missing or None), ``best_step``, ``model_type``, ``data_digest``, ``versions`` ({name: text}).
        mistakes: The worst, in the order in which to show them.
        split: The name of the split that was evaluated.
        calibration: If it was measured.
        slices: Accuracy by slice, those of one name together.
        comparison: With the champion, if there is one.

    Returns:
        The HTML of the page.
    """
    evaluations = [dict(one) for one in provenance.get("evaluations") or ()]
    best_step = _number(provenance.get("best_step"))
    confusion: dict[str, Any] = {}
    if isinstance(metrics, Metrics):
        show_matrix = len(labels) <= LARGEST_MATRIX
        pairs = () if show_matrix else most_confused_pairs(metrics, CONFUSED_PAIRS)
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
        calibration_chart=_reliability(calibration) if calibration else None,
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
        points = [(_number(one.get("step")), _number(one.get(key))) for one in evaluations]
        series.append(Series(name, tuple((x, y) for x, y in points if x is not None and y is not None)))
    marker = (best_step, f"best: step {best_step:g}") if best_step is not None else None
    return line_chart(series, x_name="training step", y_name=y_name, marker=marker, y_maximum=y_maximum)


def _reliability(calibration: Calibration) -> LineChart:
    """Returns the reliability diagram: the accuracy of the answers of about the same probability."""
    points = tuple(
        (one.confidence, one.accuracy)
        for one in calibration.bins
        if one.confidence is not None and one.accuracy is not None
    )
    perfect = Series("perfect", ((0.0, 0.0), (1.0, 1.0)))
    return line_chart(
        [Series("this model", points), perfect],
        x_name="probability of the answer",
        y_name="share that is right",
        y_maximum=1.0,
    )


def _thumbnail(mistake: Mistake) -> Thumbnail:
    return Thumbnail(
        source=thumbnail_source(mistake.image, pixels=_MISTAKE_PIXELS),
        captions=(
            f"predicted {mistake.predicted_label}, {percent(mistake.probability)}",
            f"is {mistake.true_label}",
            mistake.filename,
        ),
        title=mistake.filename,
    )


def _number(value: Any) -> float | None:
    """Returns the value as a float, or None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
