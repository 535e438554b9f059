"""Runs the search on this machine: one process per trial, several at a time, with values chosen by Optuna."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from imgpipe.components.common.errors import (
    EXIT_CODE_INTERRUPTED,
    CheckFailedError,
    InterruptedRunError,
    InvalidDataError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
    error_class_of,
)
from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.common.termination import defer_termination
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.recipes import UNSET
from imgpipe.components.tune.arguments import failed_trials_limit
from imgpipe.components.tune.engines.engine import Report, TuningSpec
from imgpipe.components.tune.engines.reporter import TrialReporter
from imgpipe.components.tune.job_dir import (
    FEATURES_FOLDER,
    STUDY_FOLDER,
    TRIALS_FOLDER,
    earlier_job_dir,
    trial_folder,
    trial_model,
)
from imgpipe.components.tune.search_space import identity_of, trial_arguments
from imgpipe.components.tune.shares import Share, shares
from imgpipe.components.tune.stopping import Curve, reason_to_stop
from imgpipe.components.tune.study import Study, open_study, read_trials
from imgpipe.components.tune.time_budget import TimeBudget
from imgpipe.components.tune.trial_process import TrialFunction, TrialProcess, can_fork_trials, failure_of
from imgpipe.components.tune.trial_run import TrialTask, read_result, run_trial, warm_up
from imgpipe.components.tune.trials import FAILED, RUNNING, Trial, values_text

_POLL_SECONDS = 0.5
# How long a trial may take to write its checkpoint when the search stops.
_STOP_SECONDS = 540.0
# A trial that was killed from outside or interrupted is restarted once; after that it counts as failed.
_MAX_STARTS = 2
# Errors of the data or the machine rather than of a trial's values: every trial would fail with them.
_ERRORS_OF_EVERY_TRIAL = (InvalidDataError, MissingInputError, UnavailableError, OutputError)


@dataclass(frozen=True)
class LocalSearch:
    """A search on this machine.

    Attributes:
        spec: What is tuned, and where the study, checkpoints, logs and models are written.
        warm: Whether trials are forked from this process, which loads TensorFlow once; None = if possible.
        function: Runs a trial in its process.
    """

    spec: TuningSpec
    warm: bool | None = None
    function: TrialFunction = run_trial

    def run(self, report: Report) -> Sequence[Trial]:
        """Runs the search; see ``Engine``."""
        spec = self.spec
        identity = {
            **identity_of(spec.request),
            **self._fixed_arguments(),
            "data_digest": spec.manifest.digest(),
        }
        with open_study(
            spec.job_dir / STUDY_FOLDER, spec.request, identity=identity, seed=spec.tuning.seed
        ) as study:
            if spec.request.resume_job:
                self._add_prior_trials(study)
            return _Run(self, study, report).run()

    def _fixed_arguments(self) -> dict[str, Any]:
        variable = {
            "job_dir",
            "keep_checkpoints",
            "max_minutes",
            *(tuned.name for tuned in self.spec.request.parameters),
        }
        return {name: value for name, value in vars(self.spec.training).items() if name not in variable}

    def _add_prior_trials(self, study: Study) -> None:
        folder = earlier_job_dir(self.spec.request.resume_job, self.spec.job_dir)
        prior = read_trials(folder / STUDY_FOLDER)
        added = study.add_prior(prior, str(folder))
        log_event(
            "prior_trials",
            f"tune: the search learns from {added} of {plural(len(prior), 'trial')} of {folder}: those in "
            "this search space",
            trials=added,
        )


class _Run:
    """The state of a running search."""

    def __init__(self, search: LocalSearch, study: Study, report: Report) -> None:
        self.search, self.spec, self.study = search, search.spec, study
        self.request = search.spec.request
        self.reporter = TrialReporter(self.request.max_trials, report, study.trials())
        self.shares: list[Share] = list(shares(self.request.max_parallel_trials))
        self.running: dict[int, tuple[TrialProcess, Share]] = {}
        self.failure: PipelineError | None = None
        self.budget = TimeBudget(
            60 * self.spec.training.max_minutes, self.request.max_trials, self.request.max_parallel_trials
        )
        self.warm = can_fork_trials() if search.warm is None else search.warm
        if self.warm and search.function is run_trial:
            warm_up()

    def run(self) -> list[Trial]:
        """Runs all trials.

        Raises:
            PipelineError: if too many failed or the search was stopped; no process is left running.
        """
        try:
            with defer_termination() as stopped:
                while not stopped():
                    self._start_trials()
                    if not self.running:
                        break
                    self._wait()
        finally:
            # Must not use the study, which may be what failed.
            self._end_all()
        if self.failure is not None:
            raise self.failure
        trials = self.study.trials()
        if any(trial.state == RUNNING for trial in trials) or self._has_next(trials):
            raise InterruptedRunError(
                "the search was stopped",
                remedy="start it again with the same job_dir: finished trials are kept, the others resume",
            )
        shutil.rmtree(self.spec.job_dir / TRIALS_FOLDER / FEATURES_FOLDER, ignore_errors=True)
        if len(trials) < self.request.max_trials and not self.study.is_exhausted:
            log_event(
                "search_time_over",
                f"tune: the search ends after {plural(len(trials), 'trial')} of {self.request.max_trials}: "
                f"there is no time for another within max_minutes={self.spec.training.max_minutes:g}",
            )
        return trials

    def _has_next(self, trials: Sequence[Trial]) -> bool:
        has_more = len(trials) < self.request.max_trials and not self.study.is_exhausted
        return has_more and self.budget.allows_another(has_running=bool(self.running))

    def _start_trials(self) -> None:
        """Starts as many trials as may run, interrupted ones first."""
        while self.failure is None and self.shares:
            trials = self.study.trials()
            interrupted = [
                trial for trial in trials if trial.state == RUNNING and trial.id not in self.running
            ]
            if interrupted:
                trial = interrupted[0]
            elif self._has_next(trials):
                trial = self.study.ask(self.spec.training.max_steps)
            else:
                return
            self._start(trial)

    def _start(self, trial: Trial) -> None:
        folder = trial_folder(self.spec.job_dir, trial.id)
        model = trial_model(self.spec.job_dir, trial.id)
        result = read_result(parse_location(folder))
        if result is not None and (model / "saved_model.pb").is_file():
            # The trial finished after the search had been killed.
            self._succeeded(trial.id, *result)
            return
        share = self.shares.pop(0)
        arguments = self._within_budget(
            trial_arguments(self.spec.training, trial.values, job_dir=str(folder.absolute())), trial.values
        )
        task = TrialTask(
            trial=trial.id,
            arguments=vars(arguments),
            dataset=str(self.spec.dataset.absolute()),
            folder=str(folder.absolute()),
            model=str(model.absolute()),
            threads=share.threads,
            gpus=share.gpus,
        )
        self.study.started(trial.id)
        process = TrialProcess(
            task,
            self.search.function,
            warm=self.warm,
            inherited=[*self.study.files, *(process for process, _ in self.running.values())],
        )
        self.running[trial.id] = (process, share)
        self.reporter.restart(trial.id)
        self.reporter.update(self.study.trials())

    def _within_budget(self, arguments: TrainingArguments, values: Mapping[str, Any]) -> TrainingArguments:
        """Returns a trial's arguments with its part of the time budget, if there is one."""
        if not arguments.max_minutes:
            return arguments
        minutes = self.budget.seconds_for_trial(is_share=self.spec.measures_steps) / 60
        unset: dict[str, Any] = {}
        if self.spec.measures_steps:
            # The trial measures how many steps fit.
            names = [name for name in ("max_steps", "warmup_steps") if name not in values]
            unset = dict.fromkeys(names, UNSET)
        return dataclasses.replace(arguments, max_minutes=minutes, **unset)

    def _wait(self) -> None:
        """Waits briefly for evaluations and exits of trials, and handles them."""
        processes = [process for process, _ in self.running.values()]
        by_connection = {
            process.connection: process for process in processes if not process.connection.closed
        }
        sentinels = [process.sentinel for process in processes]
        for ready in wait([*by_connection, *sentinels], _POLL_SECONDS):
            if isinstance(ready, Connection):
                self._respond(by_connection[ready])
        limit = self.spec.tuning.trial_silence_limit
        for process in processes:
            exit_code = process.poll()
            if exit_code is None and limit and process.silent_seconds() > limit:
                process.kill()
                self._ended(process, None)
            elif exit_code is not None:
                self._ended(process, exit_code)

    def _respond(self, process: TrialProcess) -> None:
        """Receives a trial's evaluations and sends it the reason to stop, if any."""
        try:
            evaluations = process.connection.recv()
        except (EOFError, OSError):
            process.close()
            return
        reason = self._record(process.task.trial, evaluations)
        # The trial may have been killed.
        with suppress(OSError):
            process.connection.send(reason)

    def _record(self, trial_id: int, evaluations: Sequence[Mapping[str, Any]]) -> str:
        """Records a trial's evaluations and returns the reason to stop it; empty if it continues."""
        self.study.report(trial_id, evaluations)
        trials = self.study.trials()
        trial = trials[trial_id - 1]
        reason = trial.stop_reason
        if not reason and self.request.early_stopping:
            others = [_curve(other) for other in trials if other.id != trial_id and other.evaluations]
            reason = reason_to_stop(_curve(trial), others)
            if reason:
                self.study.note_stop(trial_id, reason)
                log_event("trial_stopped", f"tune: trial {trial_id} is stopped: {reason}", trial=trial_id)
        self.reporter.update(self.study.trials())
        return reason

    def _ended(self, process: TrialProcess, exit_code: int | None) -> None:
        """Records the result of a trial's process; ``exit_code`` is None if it hung and was killed."""
        trial_id = process.task.trial
        _, share = self.running.pop(trial_id)
        process.close()
        self.budget.trial_took(process.seconds)
        self.shares.insert(0, share)
        result = read_result(parse_location(process.task.folder)) if exit_code == 0 else None
        if result is not None:
            self._succeeded(trial_id, *result)
            return
        is_hung, exit_code = exit_code is None, -9 if exit_code is None else exit_code
        problem, last_lines = failure_of(process.log, process.log_offset, exit_code)
        if is_hung:
            problem = f"it hung: no output for {self.spec.tuning.trial_silence_limit:g} s"
        from_outside = not is_hung and exit_code in (-9, -15, EXIT_CODE_INTERRUPTED)
        if from_outside and self.study.starts_of(trial_id) < _MAX_STARTS:
            log_event(
                "trial_interrupted",
                f"tune: trial {trial_id} was interrupted ({problem}) and resumes from its checkpoints",
                severity="WARNING",
                trial=trial_id,
            )
            return
        failed = self.study.fail(trial_id, problem, exit_code, last_lines)
        trials = self.study.trials()
        self.reporter.update(trials)
        self.failure = self.failure or self._failure_after(failed, trials)

    def _succeeded(
        self, trial_id: int, final: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]
    ) -> None:
        self.study.report(trial_id, evaluations)
        model = trial_model(self.spec.job_dir, trial_id)
        self.study.succeed(trial_id, final, str(model.absolute()))
        self.reporter.update(self.study.trials())

    def _failure_after(self, last: Trial, trials: Sequence[Trial]) -> PipelineError | None:
        """Returns the error that ends the search after a failed trial, or None if it continues."""
        failed = [trial for trial in trials if trial.state == FAILED]
        ended = [trial for trial in trials if trial.state != RUNNING]
        error_class = error_class_of(last.exit_code, CheckFailedError)
        where = f"trial {last.id}, {values_text(last.values)}"
        if issubclass(error_class, _ERRORS_OF_EVERY_TRIAL) and len(failed) == len(ended):
            return error_class(
                last.problem, where=where, remedy="every trial would fail: see the trial's log.txt"
            )
        limit = failed_trials_limit(self.request.max_failed_trials, self.request.max_trials)
        if len(failed) < limit:
            return None
        same_error = {trial.exit_code for trial in failed} == {last.exit_code}
        if not same_error or error_class.retry_can_help:
            error_class = CheckFailedError
        return error_class(
            f"{len(failed)} of {plural(len(trials), 'trial')} failed (limit {limit}); the last: "
            f"{last.problem}",
            where=where,
            remedy="see each trial's log.txt and trials.json; narrow the search space, or raise "
            "max_failed_trials",
        )

    def _end_all(self) -> None:
        """Ends all trials, with a checkpoint if they write one in time."""
        for process, _ in self.running.values():
            process.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for process, _ in self.running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
        self.running.clear()


def _curve(trial: Trial) -> Curve:
    points = tuple((int(evaluation["step"]), float(evaluation[METRIC])) for evaluation in trial.evaluations)
    return Curve(trial.id, trial.max_steps, points)
