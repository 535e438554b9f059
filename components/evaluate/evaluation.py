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

    def to_json(self) -> dict[str, Any]:
        """Returns the content of metrics.json: JSON values."""
        values = dataclasses.asdict(self)
        del values["metrics"]
        return {**self.metrics.to_json(), **values}
