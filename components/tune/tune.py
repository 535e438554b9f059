"""Hyperparameter tuning: trains trials with different values and keeps the best model."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import CheckFailedError, PipelineError
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.mlflow import current_run
from imgpipe.components.common.plural import plural
from imgpipe.components.common.published_model import fetch_model
from imgpipe.components.storage import atomic_write, check_empty, check_writable, parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.recipes import recipe_of_trials
from imgpipe.components.train.resolution import has_measured_steps, resolve_arguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import Engine, TuningSpec
from imgpipe.components.tune.engines.local import LocalSearch
from imgpipe.components.tune.job_dir import REPORT_FILE, TRIALS_FILE
from imgpipe.components.tune.report import tuning_report
from imgpipe.components.tune.search_space import check_search_space, identity_of, read_request
from imgpipe.components.tune.trials import RUNNING, SUCCEEDED, Trial, best_trial, values_text, write_trials

LOCAL = "local"
# How often trials.json and the report are rewritten while trials run, at most.
_SECONDS_BETWEEN_WRITES = 10.0


@dataclass(frozen=True)
class TuningFiles:
    """Where a tuning run writes.

    Attributes:
        job_dir: The folder for the study, the trials, trials.json, tuning.html and ``model/trial_ID``.
        model: The folder for the best trial's model; must not exist or be empty.
    """

    job_dir: Path
    model: Path


@dataclass(frozen=True)
class TuningResult:
    """The result of a tuning run; ``model_type`` is the best trial's."""

    best: Trial
    trials: tuple[Trial, ...]
    model_type: str = ""


def tune(
    tuning: TuneArguments,
    training: TrainingArguments,
    dataset_folder: Path,
    files: TuningFiles,
    *,
    engine: Callable[[TuningSpec], Engine] = LocalSearch,
    engine_name: str = LOCAL,
) -> TuningResult:
    """Runs the search and writes its results, and the best trial's model to ``files.model``.

    An interrupted search that is started again with the same arguments and job_dir resumes. The best trial
    has the model with the highest accuracy on all validation images, evaluated as it is served. All trials
    are evaluated in this way, whatever they were evaluated on during the training.

    Args:
        tuning: What is tuned, and how.
        training: The training arguments shared by all trials.
        dataset_folder: The folder that contains the dataset's ``manifest.json``.
        files: Where to write.
        engine: Creates the engine that runs the trials, e.g. ``LocalSearch``.
        engine_name: The engine's name, for the report.

    Raises:
        InvalidArgumentError: before the first trial, if the training would reject a point of the space.
        OutputError: if another process runs the search, or its files cannot be written.
        InterruptedRunError: if the search was stopped.
        PipelineError: the trials' error, if too many trials failed.
        CheckFailedError: if no trial has a model.
    """
    request = read_request(tuning)
    check_search_space(request, training)
    check_empty(files.model)
    manifest = read_manifest(dataset_folder)
    training = dataclasses.replace(training, recipe=recipe_of_trials(vars(training)))
    measures_steps = has_measured_steps(training)
    training = resolve_arguments(training, manifest)
    check_search_space(request, training)
    files.job_dir.mkdir(parents=True, exist_ok=True)
    check_writable(files.job_dir)
    _warn_of_few_evaluations(request, training)
    spec = TuningSpec(request, tuning, training, dataset_folder, manifest, files.job_dir, measures_steps)
    is_local = engine is LocalSearch
    writer = _Writer(
        request,
        files.job_dir,
        engine_name,
        seconds=60 * training.max_minutes if training.max_minutes and is_local else math.inf,
    )
    # One copy of the shards for all trials on this machine.
    splits = (TRAIN, VALIDATION) if is_local else ()
    try:
        with local_dataset(dataset_folder, *splits) as folder:
            trials = engine(dataclasses.replace(spec, dataset=folder)).run(writer.update)
    except PipelineError as error:
        writer.write([error.problem])
        raise
    writer.trials = list(trials)
    best = best_trial(trials)
    writer.write([] if best else ["no trial has a model"])
    if best is None:
        raise CheckFailedError(
            f"none of {plural(len(trials), 'trial')} has a model",
            remedy="see trials.json for why each trial failed",
        )
    fetch_model(parse_location(best.model), files.model)
    stopped = sum(bool(trial.stop_reason) for trial in trials)
    failed = sum(trial.state != SUCCEEDED for trial in trials)
    log_result(
        "tune",
        f"the best of {plural(len(trials), 'trial')} is trial {best.id}: top-1 accuracy "
        f"{best.objective:.4f} with {values_text(best.values)}; {stopped} stopped early, {failed} failed",
        trial=best.id,
        trials=len(trials),
        stopped=stopped,
        failed=failed,
        top_1_accuracy=best.objective,
        values=dict(best.values),
    )
    if tracked := current_run():
        tracked.log_parameters({"trial": best.id, **best.values}, "best")
        tracked.add_metrics({METRIC: best.objective or 0.0})
        tracked.flush(is_last=True)
    return TuningResult(best, tuple(trials), str(best.values.get("model_type", training.model_type)))


class _Writer:
    """Keeps trials.json and the report up to date, and logs progress."""

    def __init__(self, request: Hyperparameters, job_dir: Path, engine_name: str, *, seconds: float) -> None:
        self._request, self._job_dir, self._engine_name = request, job_dir, engine_name
        self._seconds = seconds
        self.trials: list[Trial] = []
        self._written = self._started = time.monotonic()
        self._steps_at_start: int | None = None

    def update(self, trials: Sequence[Trial]) -> None:
        """Records and logs a change."""
        self.trials = list(trials)
        self._log_progress()
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self.write([])

    def write(self, remarks: Sequence[str]) -> None:
        """Writes both files; only logs an error, because a lost folder makes the study fail with its own."""
        self._written = time.monotonic()
        try:
            extra = {"searchSpace": identity_of(self._request)["params"]}
            write_trials(self._job_dir / TRIALS_FILE, self.trials, extra=extra)
            page = tuning_report(self.trials, self._request, engine=self._engine_name, remarks=remarks)
            with atomic_write(self._job_dir / REPORT_FILE) as temporary:
                temporary.write_text(page, encoding="utf-8")
        except OSError as error:
            log_event("not_written", f"tune: {error}", severity="WARNING")

    def _log_progress(self) -> None:
        done, planned = steps_done_and_planned(self.trials, self._request)
        if self._steps_at_start is None:
            self._steps_at_start = done
        seconds = time.monotonic() - self._started
        rate = (done - self._steps_at_start) / seconds if seconds > 0 else 0.0
        left = (planned - done) / rate if rate > 0 else 0.0
        left = min(left, max(0.0, self._seconds - seconds))
        best = max(
            (trial.best_so_far for trial in self.trials if trial.best_so_far is not None), default=None
        )
        ended = sum(trial.state != RUNNING for trial in self.trials)
        so_far = f", best so far {best:.4f}" if best is not None else ""
        remaining = f", about {left:,.0f} s left" if left else ""
        log_event(
            "progress",
            f"tune: {ended} of {plural(self._request.max_trials, 'trial')} ended, "
            f"{done:,} of about {plural(planned, 'step')}"
            f"{so_far}{remaining}",
            step="tune",
            done=done,
            total=planned,
            unit="steps",
            ended=ended,
            trials=self._request.max_trials,
            best=best,
            metric=METRIC,
            seconds_left=round(left, 1),
        )


def steps_done_and_planned(trials: Sequence[Trial], request: Hyperparameters) -> tuple[int, int]:
    """Returns the number of steps done so far, and an estimate of the total.

    Running trials count with all their steps, and future trials with the mean of those that have ended.
    """
    done = sum(trial.steps for trial in trials)
    ended = [trial.steps for trial in trials if trial.state != RUNNING]
    future = max(0, request.max_trials - len(trials))
    mean = sum(ended) / len(ended) if ended else (trials[0].max_steps if trials else 0)
    running = sum(trial.max_steps for trial in trials if trial.state == RUNNING)
    return done, int(sum(ended) + running + future * mean)


def _warn_of_few_evaluations(request: Hyperparameters, training: TrainingArguments) -> None:
    evaluations = training.max_steps / training.resolved_steps_per_eval()
    if request.early_stopping and evaluations < 3:
        log_event(
            "early_stopping_late",
            f"tune: trials of {plural(training.max_steps, 'step')} are evaluated every "
            f"{plural(training.resolved_steps_per_eval(), 'step')}, too rarely for early stopping: lower "
            "train_steps_per_eval",
            severity="WARNING",
        )
