"""Trials, and ``trials.json`` in the format of AI Platform's TrainingOutput."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.provenance import tensorflow_version
from imgpipe.components.storage import atomic_write

RUNNING, SUCCEEDED, FAILED = "RUNNING", "SUCCEEDED", "FAILED"


@dataclass(frozen=True)
class Trial:
    """One training run of a search.

    Attributes:
        id: The trial's ID, from 1.
        values: The values of the tuned arguments.
        state: RUNNING, SUCCEEDED (also if it was stopped early) or FAILED.
        max_steps: The number of training steps unless it is stopped early.
        evaluations: All evaluations during the training: mappings with ``step`` and the metrics.
        stop_reason: Why it was stopped early; empty if it was not.
        final: The full evaluation of its best model: ``step`` (of the model), ``top_1_accuracy``,
            ``top_5_accuracy`` and ``loss``; empty if it has no model.
        model: The location of its model; empty if it has none.
        problem: Why it failed.
        exit_code: The exit code of its process, if it failed; the negative number of a signal that ended it.
        last_lines: The last lines of its output, if it failed.
        started: Start time, ISO 8601 in UTC; empty if it has not started.
        ended: End time, ISO 8601 in UTC; empty if it has not ended.
    """

    id: int
    values: Mapping[str, Any]
    state: str
    max_steps: int = 0
    evaluations: tuple[Mapping[str, Any], ...] = ()
    stop_reason: str = ""
    final: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    problem: str = ""
    exit_code: int = 0
    last_lines: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""

    @property
    def steps(self) -> int:
        """Number of training steps at the last evaluation."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else 0

    @property
    def objective(self) -> float | None:
        """The tuned metric in the full evaluation; None if there is none."""
        return float(self.final[METRIC]) if METRIC in self.final else None

    @property
    def best_so_far(self) -> float | None:
        """The best value of the tuned metric during the training; None before the first evaluation."""
        return max((float(evaluation[METRIC]) for evaluation in self.evaluations), default=None)

    def to_json(self) -> dict[str, Any]:
        """Returns a HyperparameterOutput; unlike in AI Platform's, ``allMetrics`` has all evaluations."""
        output: dict[str, Any] = {
            "trialId": str(self.id),
            "hyperparameters": {name: _text(value) for name, value in self.values.items()},
            "startTime": self.started,
            "endTime": self.ended,
            "state": self.state,
            "isTrialStoppedEarly": bool(self.stop_reason),
            "allMetrics": [_metric_json(evaluation) for evaluation in self.evaluations],
        }
        if self.final:
            output["finalMetric"] = _metric_json(self.final)
        if self.stop_reason:
            output["stopReason"] = self.stop_reason
        if self.problem:
            output["error"] = {
                "problem": self.problem,
                "exitCode": self.exit_code,
                "lastLines": list(self.last_lines),
            }
        if self.model:
            output["builtInAlgorithmOutput"] = {
                "framework": "TENSORFLOW",
                "runtimeVersion": ".".join(tensorflow_version().split(".")[:2]),
                "pythonVersion": "3",
                "modelPath": self.model,
            }
        return output


def value_text(value: Any) -> str:
    """Returns a value with at most four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values_text(values: Mapping[str, Any]) -> str:
    """Returns values as ``name=value, ...``."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Returns the trial with the highest accuracy in the full evaluation; ties go to the lower loss.

    All trials with a model, also those that were stopped early, are evaluated in the same way, so their
    metrics can be compared. None if no trial has a model.
    """
    candidates = [trial for trial in trials if trial.state == SUCCEEDED and trial.objective is not None]
    return min(
        candidates,
        key=lambda trial: (-float(trial.final[METRIC]), float(trial.final["loss"]), trial.id),
        default=None,
    )


def write_trials(path: Path, trials: Sequence[Trial], *, extra: Mapping[str, Any]) -> None:
    """Writes ``trials.json``: a TrainingOutput with the best trial first, as AI Platform sorted it.

    Args:
        path: The file.
        trials: All trials.
        extra: Further JSON values by name, e.g. the search space.
    """
    best = best_trial(trials)
    ranked = sorted(
        trials,
        key=lambda trial: (-trial.objective if trial.objective is not None else 2.0, trial.id),
    )
    if best is not None:
        ranked = [best, *(trial for trial in ranked if trial is not best)]
    output = {
        "completedTrialCount": str(sum(trial.state == SUCCEEDED for trial in trials)),
        "isHyperparameterTuningJob": True,
        "isBuiltInAlgorithmJob": True,
        "hyperparameterMetricTag": METRIC,
        "bestTrialId": str(best.id) if best else "",
        "trials": [trial.to_json() for trial in ranked],
        **extra,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(output, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _metric_json(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    names = {"top_5_accuracy": "top5Accuracy", "loss": "loss", "train_loss": "trainLoss"}
    return {
        "trainingStep": str(evaluation["step"]),
        "objectiveValue": evaluation[METRIC],
        **{key: evaluation[name] for name, key in names.items() if name in evaluation},
    }


def _text(value: Any) -> str:
    """Returns a value as a string, as in TrainingOutput; whole numbers have no decimal point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
