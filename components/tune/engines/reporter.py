"""Logs the progress of trials, in the same way for all engines."""

from collections.abc import Sequence

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.tune.engines.engine import Report
from imgpipe.components.tune.trials import FAILED, RUNNING, Trial, values_text


class TrialReporter:
    """Logs and reports what has changed since the last update.

    Args:
        max_trials: The total number of trials.
        report: Called if any trial has changed.
        known: The trials of an earlier run of the search, which are not logged again.
    """

    def __init__(self, max_trials: int, report: Report, known: Sequence[Trial] = ()) -> None:
        self._max_trials, self._report = max_trials, report
        self._last = {trial.id: trial for trial in known}

    def restart(self, trial_id: int) -> None:
        """Makes the next update log the trial as started."""
        self._last.pop(trial_id, None)

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
                value = trial.evaluations[-1][METRIC]
                log_event(
                    "trial_evaluated",
                    f"tune: trial {trial.id}: step {trial.steps:,} of {trial.max_steps:,}, {METRIC} "
                    f"{value:.4f}, its best {trial.best_so_far:.4f}",
                    trial=trial.id,
                    steps=trial.steps,
                    value=value,
                    best=trial.best_so_far,
                )
        self._last = {trial.id: trial for trial in trials}
        if changed:
            self._report(trials)

    def _log_start(self, trial: Trial) -> None:
        log_event(
            "trial_started",
            f"tune: trial {trial.id} of {self._max_trials}: {values_text(trial.values)}",
            trial=trial.id,
            trials=self._max_trials,
            values=dict(trial.values),
            max_steps=trial.max_steps,
            steps=trial.steps,
        )

    def _log_end(self, trial: Trial) -> None:
        if trial.state == FAILED:
            result = f"failed: {trial.problem}"
        elif trial.objective is None:
            result = "no full evaluation"
        else:
            result = (
                f"{METRIC} {trial.objective:.4f} on {plural(trial.final['examples'], 'image')}, the model of "
                f"step {trial.final['step']:,}"
            )
        if trial.stop_reason:
            result += f", stopped at step {trial.steps:,} of {trial.max_steps:,}"
        log_event(
            "trial_finished",
            f"tune: trial {trial.id}: {result}",
            severity="WARNING" if trial.state == FAILED else "INFO",
            trial=trial.id,
            state=trial.state,
            steps=trial.steps,
            objective=trial.objective,
            stop_reason=trial.stop_reason,
            last_lines=list(trial.last_lines),
        )
