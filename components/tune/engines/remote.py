"""Shared by the engines that run trials on other machines: the trials' files and progress."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters
from imgpipe.components.common.log import log_event
from imgpipe.components.common.published_model import SAVED_MODEL_NAME
from imgpipe.components.storage import Location
from imgpipe.components.train.job_dir import METRICS_FILE
from imgpipe.components.tune.engines.engine import Report
from imgpipe.components.tune.job_dir import trial_location, trial_model_location
from imgpipe.components.tune.trial_run import read_result
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial


def with_trial_files(trial: Trial, job_dir: Location, name: str) -> Trial:
    """Adds the evaluations, final evaluation and model that the trial's process has written.

    Args:
        trial: As the service describes it; its evaluations are kept if the folder has none.
        job_dir: The tuning's job_dir.
        name: Name of the trial's folder.
    """
    folder, model = trial_location(job_dir, name), trial_model_location(job_dir, name)
    evaluations = _read_evaluations(folder) or trial.evaluations
    has_model = trial.state == SUCCEEDED and _exists(model / SAVED_MODEL_NAME)
    result = read_result(folder) if has_model else None
    return replace(
        trial,
        evaluations=tuple(evaluations),
        final=result[0] if result else {},
        model=str(model) if has_model else "",
    )


def typed_values(request: Hyperparameters, given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a service's parameter values to their types: services write integers as floats."""
    values: dict[str, Any] = {}
    for parameter in request.parameters:
        value = given[parameter.name]
        if parameter.type == "CATEGORICAL":
            values[parameter.name] = str(value)
        elif parameter.type == "INTEGER":
            values[parameter.name] = int(float(value))
        else:
            values[parameter.name] = float(value)
    return values


class TrialReporter:
    """Logs and reports what has changed since the last poll."""

    def __init__(self, request: Hyperparameters, report: Report) -> None:
        self._request, self._report = request, report
        self._last: dict[int, Trial] = {}

    def update(self, trials: Sequence[Trial]) -> None:
        """Logs trials that were started, evaluated or ended; calls ``report`` if any trial has changed."""
        changed = [trial for trial in trials if self._last.get(trial.id) != trial]
        for trial in changed:
            before = self._last.get(trial.id)
            if before is None:
                self._log_start(trial)
            if trial.state != RUNNING and (before is None or before.state == RUNNING):
                self._log_end(trial)
            elif trial.state == RUNNING and trial.best_so_far is not None:
                log_event(
                    "trial_evaluated",
                    f"tune: trial {trial.id}: step {trial.steps:,} of {trial.max_steps:,}, its best {METRIC} "
                    f"{trial.best_so_far:.4f}",
                    trial=trial.id,
                    steps=trial.steps,
                    best=trial.best_so_far,
                )
        self._last = {trial.id: trial for trial in trials}
        if changed:
            self._report(trials)

    def _log_start(self, trial: Trial) -> None:
        values = ", ".join(f"{name}={value}" for name, value in trial.values.items())
        log_event(
            "trial_started",
            f"tune: trial {trial.id} of {self._request.max_trials}: {values}",
            trial=trial.id,
            trials=self._request.max_trials,
            values=dict(trial.values),
            max_steps=trial.max_steps,
            steps=trial.steps,
        )

    def _log_end(self, trial: Trial) -> None:
        result = f"{METRIC} {trial.objective:.4f}" if trial.objective is not None else "no full evaluation"
        log_event(
            "trial_finished",
            f"tune: trial {trial.id} failed: {trial.problem}"
            if trial.state == FAILED
            else f"tune: trial {trial.id}: {result}",
            severity="WARNING" if trial.state == FAILED else "INFO",
            trial=trial.id,
            state=trial.state,
            steps=trial.steps,
            objective=trial.objective,
            stop_reason=trial.stop_reason,
        )


def _read_evaluations(folder: Location) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (folder / METRICS_FILE).read().splitlines()]
    except (OSError, ValueError, MissingInputError):
        return []


def _exists(file: Location) -> bool:
    try:
        return file.status() is not None
    except (OSError, MissingInputError):
        return False
