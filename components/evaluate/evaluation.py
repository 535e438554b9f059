"""The result of an evaluation."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from imgpipe.components.evaluate.calibration import Calibration, TemperatureScaling
from imgpipe.components.evaluate.comparison import Comparison
from imgpipe.components.evaluate.held_out import HeldOutMetrics, Interval, SetMetrics
from imgpipe.components.evaluate.metrics import Metrics
from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics
from imgpipe.components.evaluate.slices import SliceMetrics


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        labels: The model's labels, in the order of the classes.
        split: The split of the dataset.
        metrics: The model's metrics; for a multi-label dataset, ``MultiLabelMetrics``.
        top_1_accuracy_interval: The 95% confidence interval of the accuracy.
        test: The figures on the test split; None if there is none, or it is the evaluated split.
        calibration: The model's calibration.
        temperature_scaling: What the model's temperature changes in it.
        label_sets: The metrics of the model's label sets.
        slices: Accuracy by slice, grouped by name; empty if the images have no slices.
        comparison: The comparison with the champion; None if there is none.
    """

    labels: tuple[str, ...]
    split: str
    metrics: Metrics | MultiLabelMetrics
    top_1_accuracy_interval: Interval
    test: HeldOutMetrics | None
    calibration: Calibration
    temperature_scaling: TemperatureScaling
    label_sets: SetMetrics
    slices: tuple[SliceMetrics, ...]
    comparison: Comparison | None

    def figures(self) -> dict[str, float]:
        """Returns the figures for logs and lists of metrics, by name."""
        metrics, test, comparison = self.metrics, self.test, self.comparison
        figures = {
            "top_1_accuracy": metrics.top_1_accuracy,
            "top_1_accuracy_lower": self.top_1_accuracy_interval.lower,
            "top_1_accuracy_upper": self.top_1_accuracy_interval.upper,
            "top_5_accuracy": metrics.top_5_accuracy,
            "loss": metrics.loss,
            "examples": metrics.examples,
            "expected_calibration_error": self.calibration.expected_calibration_error,
            "expected_calibration_error_before": self.temperature_scaling.before.expected_calibration_error,
            "temperature": self.temperature_scaling.temperature,
        }
        if isinstance(metrics, MultiLabelMetrics):
            figures |= {"mean_average_precision": metrics.mean_average_precision, "f1": metrics.f1}
        if test is not None:
            figures |= {
                "test_top_1_accuracy": test.top_1_accuracy,
                "test_top_1_accuracy_lower": test.top_1_accuracy_interval.lower,
                "test_top_1_accuracy_upper": test.top_1_accuracy_interval.upper,
                "test_examples": test.examples,
                "test_expected_calibration_error": test.expected_calibration_error,
            }
        if comparison is not None:
            figures |= {
                "champion_top_1_accuracy": comparison.champion_top_1_accuracy,
                "difference": comparison.difference,
                "difference_lower": comparison.lower,
                "difference_upper": comparison.upper,
            }
        return figures

    def to_json(self) -> dict[str, Any]:
        """Returns the content of metrics.json: JSON values."""
        values = dataclasses.asdict(self)
        del values["metrics"]
        return {**self.metrics.to_json(), **values}
