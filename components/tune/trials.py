"""What is known of trials, and ``trials.json``: all of it in the form of AI Platform's TrainingOutput."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.provenance import tensorflow_version
from imgpipe.components.storage.files import written_whole

RUNNING, SUCCEEDED, FAILED = "RUNNING", "SUCCEEDED", "FAILED"


@dataclass(frozen=True)
class Trial:
    """One training of a tuning.

    Attributes:
        id: From 1.
        values: Of the tuned arguments.
        state: RUNNING, SUCCEEDED (also if it was stopped early) or FAILED.
        max_steps: At which it ends if nobody stops it.
        evaluations: All during the training: objects with ``step`` and the metrics.
        stop_reason: Why it was stopped early; empty if it was not.
        final: What the full evaluation of its best model found: ``step`` (of the model), ``top_1_accuracy``,
            ``top_5_accuracy`` and ``loss``; empty if it has no model.
        model: Where its model lies; empty if it has none.
        problem: Why it failed.
        exit_code: Of its process, if it failed; below 0 the signal that ended it.
        last_lines: Of its output, if it failed.
        started: ISO 8601 in UTC; empty if it has not started.
        ended: ISO 8601 in UTC; empty if it has not ended.
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
        """Training steps done at the last evaluation."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else 0

    @property
    def objective(self) -> float | None:
        """The tuned metric in the full evaluation; None without one."""
        return float(self.final[METRIC]) if METRIC in self.final else None

    @property
    def best_so_far(self) -> float | None:
        """The best value of the tuned metric during the training; None before the first evaluation."""
        return max((float(one[METRIC]) for one in self.evaluations), default=None)

    def to_json(self) -> dict[str, Any]:
        """Returns a HyperparameterOutput; ``allMetrics``, which Google left empty, has every evaluation."""
        output: dict[str, Any] = {
            "trialId": str(self.id),
            "hyperparameters": {name: _text(value) for name, value in self.values.items()},
            "startTime": self.started,
            "endTime": self.ended,
            "state": self.state,
            "isTrialStoppedEarly": bool(self.stop_reason),
            "allMetrics": [
                {"trainingStep": str(one["step"]), "objectiveValue": one[METRIC], **_others(one)}
                for one in self.evaluations
            ],
        }
        if self.final:
            output["finalMetric"] = {
                "trainingStep": str(self.final["step"]),
                "objectiveValue": self.final[METRIC],
                **_others(self.final),
            }
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
    """Returns the trial with the highest accuracy in the full evaluation; of equals that of the lower loss.

    All trials that have a model were evaluated alike, those that were stopped early too, so that their
    numbers can be compared. None if there is no such trial.
    """
    measured = [trial for trial in trials if trial.state == SUCCEEDED and trial.objective is not None]
    return min(
        measured, key=lambda one: (-float(one.final[METRIC]), float(one.final["loss"]), one.id), default=None
    )


def write_trials(path: Path, trials: Sequence[Trial], *, circumstances: Mapping[str, Any]) -> None:
    """Writes ``trials.json``: a TrainingOutput, the best trial first as AI Platform sorted it.

    Args:
        path: The file.
        trials: All of them.
        circumstances: More JSON values by name, e.g. the search space.
    """
    best = best_trial(trials)
    ranked = sorted(
        trials,
        key=lambda one: (-one.objective if one.objective is not None else 2.0, one.id),
    )
    if best is not None:
        ranked = [best, *(one for one in ranked if one is not best)]
    output = {
        "completedTrialCount": str(sum(one.state == SUCCEEDED for one in trials)),
        "isHyperparameterTuningJob": True,
        "isBuiltInAlgorithmJob": True,
        "hyperparameterMetricTag": METRIC,
        "bestTrialId": str(best.id) if best else "",
        "trials": [one.to_json() for one in ranked],
        **circumstances,
    }
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(output, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _others(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    names = {"top_5_accuracy": "top5Accuracy", "loss": "loss", "train_loss": "trainLoss"}
    return {ours: evaluation[name] for name, ours in names.items() if name in evaluation}


def _text(value: Any) -> str:
    """Returns a value as TrainingOutput has it: a text, whole numbers without a decimal point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
