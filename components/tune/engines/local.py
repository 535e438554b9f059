"""The search on this machine: one process a trial, some at a time, their values chosen by Optuna."""

import selectors
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    EXIT_CODE_INTERRUPTED,
    CheckFailedError,
    InterruptedRunError,
    InvalidDataError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters
from imgpipe.components.common.log import log_event
from imgpipe.components.common.termination import termination_noted
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import failures_that_end
from imgpipe.components.tune.engines.engine import Report
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
from imgpipe.components.tune.stopping import Curve, StoppingRules, reason_to_stop
from imgpipe.components.tune.study import Study, open_study, read_trials
from imgpipe.components.tune.trial_process import TrialProcess, can_fork, failure_of, warm_up
from imgpipe.components.tune.trial_run import WORK, TrialTask, read_result
from imgpipe.components.tune.trials import FAILED, RUNNING, Trial

_PAUSE_SECONDS = 0.5
# A process that has closed its pipe is gone in a moment.
_PAUSE_WHILE_ENDING_SECONDS = 0.01
# For the checkpoint of a trial that is told to stop.
_SECONDS_TO_END = 60.0
# A trial whose process was killed from outside or interrupted is started again; then it counts as failed.
_STARTS_AFTER_A_KILL = 2
# What lies in the data or the machine, and not in a trial's values, meets every trial.
_SAME_FOR_ALL = (InvalidDataError, MissingInputError, UnavailableError, OutputError)


@dataclass(frozen=True)
class LocalSearch:
    """A search on this machine.

    Attributes:
        request: What is tuned.
        training: What all trials have in common.
        dataset: The folder with the data set's manifest.
        job_dir: Where study, checkpoints, logs and models are.
        seed: Of the choice of values.
        data_digest: Of the data set: a search goes on with the same data only.
        silence_limit: Seconds without output after which a trial counts as hung; 0 = never.
        rules: When trials are stopped.
        warm: Whether trials are forked from this process, which loads TensorFlow once; None = if it can be.
        work: What a trial's process does, ``module:function``.
    """

    request: Hyperparameters
    training: TrainingArguments
    dataset: Path
    job_dir: Path
    seed: int = 0
    data_digest: str = ""
    silence_limit: float = 3600
    rules: StoppingRules = field(default_factory=StoppingRules)
    warm: bool | None = None
    work: str = WORK

    def run(self, report: Report) -> Sequence[Trial]:
        """Runs the search; see ``Engine``."""
        identity = {**identity_of(self.request), **self._common(), "data_digest": self.data_digest}
        with open_study(
            self.job_dir / STUDY_FOLDER, self.request, identity=identity, seed=self.seed
        ) as study:
            if self.request.resume_job:
                self._add_prior(study)
            return _Run(self, study, report).to_the_end()

    def _common(self) -> dict[str, Any]:
        tuned = {parameter.name for parameter in self.request.parameters}
        own = {"job_dir", "keep_checkpoints", *tuned}
        settings = vars(self.training)
        return {name: value for name, value in settings.items() if name not in own}

    def _add_prior(self, study: Study) -> None:
        folder = earlier_job_dir(self.request.resume_job, self.job_dir)
        before = read_trials(folder / STUDY_FOLDER)
        known = study.add_prior(before, str(folder))
        log_event(
            "prior_trials",
            f"tune: {known} of {len(before)} trials of {folder} are in this search space and known to it",
            trials=known,
        )


class _Run:
    """A search on its way."""

    def __init__(self, search: LocalSearch, study: Study, report: Report) -> None:
        self.search, self.study, self._report = search, study, report
        self.request = search.request
        self.shares: list[Share] = list(shares(self.request.max_parallel_trials))
        self.running: dict[int, tuple[TrialProcess, Share]] = {}
        self.selector = selectors.DefaultSelector()
        self.failure: PipelineError | None = None
        self.warm = can_fork() if search.warm is None else search.warm
        if self.warm:
            warm_up(search.work)

    def to_the_end(self) -> list[Trial]:
        """Runs all trials.

        Raises:
            PipelineError: if too many failed, or the search is told to stop; nothing is left running.
        """
        try:
            with termination_noted() as stopped:
                while not stopped():
                    self._start_trials()
                    if not self.running:
                        break
                    self._wait()
        except BaseException:
            # The study may be what failed: nothing is asked of it any more.
            self._end_all()
            raise
        self._end_all()
        if self.failure is not None:
            raise self.failure
        trials = self.study.trials()
        if any(trial.state == RUNNING for trial in trials) or self._next_is_due(trials):
            raise InterruptedRunError(
                "the tuning was told to stop",
                remedy="start it again with the same job_dir: finished trials are kept, the others go on",
            )
        shutil.rmtree(self.search.job_dir / TRIALS_FOLDER / FEATURES_FOLDER, ignore_errors=True)
        return trials

    def _next_is_due(self, trials: Sequence[Trial]) -> bool:
        return len(trials) < self.request.max_trials and not self.study.is_exhausted

    def _start_trials(self) -> None:
        """Starts trials while there is room: those that were interrupted first."""
        while self.failure is None and self.shares:
            trials = self.study.trials()
            waiting = [one for one in trials if one.state == RUNNING and one.id not in self.running]
            if waiting:
                trial = waiting[0]
            elif self._next_is_due(trials):
                trial = self.study.ask(self.search.training.max_steps)
            else:
                return
            self._start(trial)

    def _start(self, trial: Trial) -> None:
        folder = trial_folder(self.search.job_dir, trial.id)
        model = trial_model(self.search.job_dir, trial.id)
        if self._take_result(trial, folder, model):
            return
        share = self.shares.pop(0)
        arguments = trial_arguments(self.search.training, trial.values, job_dir=str(folder.absolute()))
        task = TrialTask(
            trial=trial.id,
            arguments=vars(arguments),
            dataset=str(self.search.dataset.absolute()),
            folder=str(folder.absolute()),
            model=str(model.absolute()),
            threads=share.threads,
            gpus=share.gpus,
            work=self.search.work,
        )
        self.study.started(trial.id)
        process = TrialProcess(task, warm=self.warm)
        self.running[trial.id] = (process, share)
        self.selector.register(process.questions, selectors.EVENT_READ, trial.id)
        values = ", ".join(f"{name}={_shown(value)}" for name, value in trial.values.items())
        log_event(
            "trial_started",
            f"tune: trial {trial.id} of {self.request.max_trials}: {values}",
            trial=trial.id,
            trials=self.request.max_trials,
            values=dict(trial.values),
            max_steps=trial.max_steps,
            steps=trial.steps,
            pid=process.pid,
        )

    def _take_result(self, trial: Trial, folder: Path, model: Path) -> bool:
        """Takes over the result of a trial that ended while nobody looked."""
        result = read_result(folder)
        if result is None or not (model / "saved_model.pb").is_file():
            return False
        self._succeeded(trial.id, *result)
        return True

    def _wait(self) -> None:
        """Waits a little for questions and ends, and deals with them."""
        ending = any(process.is_silent for process, _ in self.running.values())
        for key, _ in self.selector.select(_PAUSE_WHILE_ENDING_SECONDS if ending else _PAUSE_SECONDS):
            process, _ = self.running[key.data]
            for evaluations in process.asked():
                process.answer(self._judged(key.data, evaluations))
            if process.is_silent:
                self.selector.unregister(process.questions)
        for trial_id, (process, _) in list(self.running.items()):
            limit = self.search.silence_limit
            status = process.poll()
            if status is None and limit and process.silent_seconds() > limit:
                process.kill()
                self._ended(trial_id, None)
            elif status is not None:
                self._ended(trial_id, status)

    def _judged(self, trial_id: int, evaluations: Sequence[Mapping[str, Any]]) -> str:
        """Notes a trial's evaluations and returns why it is to stop; empty if it goes on."""
        is_new = self.study.report(trial_id, evaluations)
        trials = self.study.trials()
        trial = trials[trial_id - 1]
        reason = trial.stop_reason
        if not reason and self.request.early_stopping:
            others = [_curve(one) for one in trials if one.id != trial_id and one.evaluations]
            reason = reason_to_stop(_curve(trial), others, self.search.rules)
            if reason:
                self.study.note_stop(trial_id, reason)
                log_event("trial_stopped", f"tune: trial {trial_id} is stopped: {reason}", trial=trial_id)
        if is_new:
            log_event(
                "trial_evaluated",
                f"tune: trial {trial_id}: step {trial.steps:,} of {trial.max_steps:,}, "
                f"{METRIC} {evaluations[-1][METRIC]:.4f}, its best {trial.best_so_far:.4f}",
                trial=trial_id,
                steps=trial.steps,
                value=evaluations[-1][METRIC],
                best=trial.best_so_far,
            )
            self._report(self.study.trials())
        return reason

    def _ended(self, trial_id: int, status: int | None) -> None:
        """Closes a trial whose process has ended; ``status`` is None if it hung and was killed."""
        process, share = self.running.pop(trial_id)
        with suppress(KeyError, ValueError):
            self.selector.unregister(process.questions)
        process.close()
        self.shares.insert(0, share)
        result = read_result(Path(process.task.folder)) if status == 0 else None
        if result is not None:
            self._succeeded(trial_id, *result)
            return
        if status is None:
            problem = f"it hung: {self.search.silence_limit:g} seconds without a line of output"
            last_lines = failure_of(process.log, process.begun_at, -9)[1]
        else:
            problem, last_lines = failure_of(process.log, process.begun_at, status)
        by_others = status is not None and (status in (-9, -15) or status == EXIT_CODE_INTERRUPTED)
        if by_others and self.study.starts_of(trial_id) < _STARTS_AFTER_A_KILL:
            log_event(
                "trial_interrupted",
                f"tune: trial {trial_id} was interrupted ({problem}) and goes on from its checkpoints",
                severity="WARNING",
                trial=trial_id,
            )
            return
        self._failed(trial_id, problem, -9 if status is None else status, last_lines)

    def _succeeded(
        self, trial_id: int, final: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]
    ) -> None:
        self.study.report(trial_id, evaluations)
        model = trial_model(self.search.job_dir, trial_id)
        trial = self.study.succeed(trial_id, final, str(model.absolute()))
        stopped = f", stopped at step {trial.steps:,} of {trial.max_steps:,}" if trial.stop_reason else ""
        log_event(
            "trial_finished",
            f"tune: trial {trial_id}: {METRIC} {trial.objective:.4f} on {final['examples']:,} images, "
            f"the model of step {final['step']:,}{stopped}",
            trial=trial_id,
            state=trial.state,
            steps=trial.steps,
            objective=trial.objective,
            stop_reason=trial.stop_reason,
        )
        self._report(self.study.trials())

    def _failed(self, trial_id: int, problem: str, status: int, last_lines: Sequence[str]) -> None:
        trial = self.study.fail(trial_id, problem, status, last_lines)
        log_event(
            "trial_finished",
            f"tune: trial {trial_id} failed: {problem}",
            severity="WARNING",
            trial=trial_id,
            state=trial.state,
            steps=trial.steps,
            last_lines=list(last_lines),
        )
        trials = self.study.trials()
        self._report(trials)
        self.failure = self.failure or _failure(trials, trial, self.request)

    def _end_all(self) -> None:
        """Ends all processes, with their checkpoints if they are quick, and closes the pipes."""
        for process, _ in self.running.values():
            process.tell_to_stop()
        deadline = time.monotonic() + _SECONDS_TO_END
        for trial_id, (process, share) in list(self.running.items()):
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
            del self.running[trial_id]
            self.shares.insert(0, share)
        self.selector.close()


def _failure(trials: Sequence[Trial], last: Trial, request: Hyperparameters) -> PipelineError | None:
    """Returns the error with which the search ends after a failed trial, or None if it goes on."""
    failed = [trial for trial in trials if trial.state == FAILED]
    kind = next((one for one in ERROR_CLASSES if one.exit_code == last.exit_code), CheckFailedError)
    where = f"trial {last.id}, {', '.join(f'{name}={_shown(value)}' for name, value in last.values.items())}"
    if issubclass(kind, _SAME_FOR_ALL) and len(failed) == len(
        [one for one in trials if one.state != RUNNING]
    ):
        return kind(last.problem, where=where, remedy="this meets every trial: the trial's log.txt says more")
    limit = failures_that_end(request.max_failed_trials, request.max_trials)
    if len(failed) < limit:
        return None
    alike = {trial.exit_code for trial in failed} == {last.exit_code}
    error_class = kind if alike and not kind.retry_can_help else CheckFailedError
    return error_class(
        f"{len(failed)} of {len(trials)} trials failed, the search ends at {limit}; the last: {last.problem}",
        where=where,
        remedy="each trial's log.txt and trials.json say why; narrow the search space, or raise "
        "max_failed_trials",
    )


def _curve(trial: Trial) -> Curve:
    points = tuple((int(one["step"]), float(one[METRIC])) for one in trial.evaluations)
    return Curve(trial.id, trial.max_steps, points)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
