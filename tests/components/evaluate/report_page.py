"""The report of given predictions."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.evaluate.calibration import compute_scaled_calibration
from imgpipe.components.evaluate.evaluation import Evaluation
from imgpipe.components.evaluate.held_out import SetMetrics, accuracy_interval
from imgpipe.components.evaluate.metrics import compute_metrics
from imgpipe.components.evaluate.report import evaluation_report
from imgpipe.components.evaluate.thresholds import count_thresholds


def report_page(
    classes: NDArray[Any],
    probabilities: NDArray[Any],
    labels: Sequence[str],
    manifest: Manifest,
    **values: Any,
) -> str:
    """Returns the report of single-label predictions; ``values`` are arguments of ``evaluation_report``."""
    metrics = compute_metrics(classes, probabilities)
    evaluation = Evaluation(
        tuple(labels),
        "validation",
        metrics,
        accuracy_interval(metrics.top_1_accuracy, len(classes)),
        None,
        *compute_scaled_calibration(classes, probabilities, 1.0, cross_fit=False),
        SetMetrics(0.9, 0.92, 1.5),
        (),
        None,
    )
    thresholds = count_thresholds(classes, probabilities, labels)
    return evaluation_report(
        evaluation, manifest=manifest, **{"provenance": {}, "thresholds": thresholds, **values}
    )
