"""Tunes: many trainings with different values, and the model of the best."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import CheckFailedError, PipelineError
from imgpipe.components.common.hyperparameters import METRIC, Hyperparameters
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.published_model import fetch_model
from imgpipe.components.storage.files import check_empty, check_writable, written_whole
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import Engine, TuningSpec
from imgpipe.components.tune.engines.local import LocalSearch
from imgpipe.components.tune.job_dir import REPORT_FILE, TRIALS_FILE
from imgpipe.components.tune.report import tuning_report
from imgpipe.components.tune.search_space import check_search_space, identity_of, read_request
from imgpipe.components.tune.trials import RUNNING, SUCCEEDED, Trial, best_trial, values_text, write_trials

LOCAL = "local"
# While trials run, the files are written anew no more often than this.
_SECONDS_BETWEEN_WRITES = 10.0


@dataclass(frozen=True)
class TuningFiles:
    """Where a tuning writes.

    Attributes:
        job_dir: Study, trials, trials.json, tuning.html, and the models in ``model/trial_ID``.
        model: Gets the best trial's model; must not exist or be empty.
    """

    job_dir: Path
    model: Path


@dataclass(frozen=True)
class TuningResult:
    """What a tuning came to."""

    best: Trial
    trials: tuple[Trial, ...]


def tune(
    tuning: TuneArguments,
    training: TrainingArguments,
    dataset_folder: Path,
    files: TuningFiles,
    *,
    engine: Callable[[TuningSpec], Engine] = LocalSearch,
    engine_name: str = LOCAL,
) -> TuningResult:
    """Runs the search, writes what came of it, and the best trial's model into ``files.model``.

    Started again with the same arguments and job_dir after an interruption, it goes on. The best trial is the
    one whose model is most accurate on all validation images as it is served, measured alike for all trials,
    whatever they measured on during their training.

    Args:
        tuning: What is tuned, and how.
        training: What all trials have in common.
        dataset_folder: Where the data set's ``manifest.json`` lies.
        files: Where to write.
        engine: Makes what runs the trials, as ``LocalSearch`` does.
        engine_name: For the report.

    Raises:
        InvalidArgumentError: before the first trial, if the search space holds what the training refuses.
        OutputError: if another process works on the search, or its files cannot be written.
        InterruptedRunError: if it is told to stop.
        PipelineError: as the trials, if too many of them failed.
        CheckFailedError: if no trial has a model.
    """
    request = read_request(tuning)
    check_search_space(request, training)
    check_empty(files.model)
    manifest = read_manifest(dataset_folder)
    files.job_dir.mkdir(parents=True, exist_ok=True)
    check_writable(files.job_dir)
    _warn_of_few_evaluations(request, training)
    spec = TuningSpec(request, tuning, training, dataset_folder, manifest, files.job_dir)
    writer = _Writer(request, files.job_dir, engine_name)
    try:
        trials = engine(spec).run(writer.changed)
    except PipelineError as error:
        writer.write([error.problem])
        raise
    writer.trials = list(trials)
    best = best_trial(trials)
    writer.write([] if best else ["no trial has a model"])
    if best is None:
        raise CheckFailedError(
            f"none of {len(trials)} trials has a model", remedy="trials.json says why each of them failed"
        )
    fetch_model(best.model, files.model)
    stopped = sum(bool(one.stop_reason) for one in trials)
    failed = sum(one.state != SUCCEEDED for one in trials)
    log_result(
        "tune",
        f"trial {best.id} of {len(trials)} is best: top-1 accuracy {best.objective:.4f} with "
        f"{values_text(best.values)}; {stopped} stopped early, {failed} failed",
        trial=best.id,
        trials=len(trials),
        stopped=stopped,
        failed=failed,
        top_1_accuracy=best.objective,
        values=dict(best.values),
    )
    return TuningResult(best, tuple(trials))


class _Writer:
    """Keeps trials.json and the page up to date, and tells how far the search is."""

    def __init__(self, request: Hyperparameters, job_dir: Path, engine_name: str) -> None:
        self._request, self._job_dir, self._engine_name = request, job_dir, engine_name
        self.trials: list[Trial] = []
        self._written = self._begun = time.monotonic()
        self._steps_at_begin: int | None = None

    def changed(self, trials: Sequence[Trial]) -> None:
        """Takes note of a change."""
        self.trials = list(trials)
        self._tell()
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self.write([])

    def write(self, remarks: Sequence[str]) -> None:
        """Writes both files; a study that vanished with its folder has its own error to tell."""
        self._written = time.monotonic()
        try:
            circumstances: dict[str, Any] = {"searchSpace": identity_of(self._request)["params"]}
            write_trials(self._job_dir / TRIALS_FILE, self.trials, circumstances=circumstances)
            page = tuning_report(self.trials, self._request, engine=self._engine_name, remarks=remarks)
            with written_whole(self._job_dir / REPORT_FILE) as temporary:
                temporary.write_text(page, encoding="utf-8")
        except OSError as error:
            log_event("not_written", f"tune: {error}", severity="WARNING")

    def _tell(self) -> None:
        done, planned = steps_done_and_planned(self.trials, self._request)
        if self._steps_at_begin is None:
            self._steps_at_begin = done
        seconds = time.monotonic() - self._begun
        rate = (done - self._steps_at_begin) / seconds if seconds > 0 else 0.0
        left = (planned - done) / rate if rate > 0 else 0.0
        best = max((one.best_so_far for one in self.trials if one.best_so_far is not None), default=None)
        ended = sum(one.state != RUNNING for one in self.trials)
        so_far = f", best so far {best:.4f}" if best is not None else ""
        in_time = f", about {left:,.0f} s left" if left else ""
        log_event(
            "progress",
            f"tune: {ended} of {self._request.max_trials} trials ended, {done:,} of about {planned:,} steps"
            f"{so_far}{in_time}",
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
    """Returns the steps taken so far, and about how many there will be.

    Trials that have not ended count whole; those that have not begun like the mean of those that have ended.
    """
    done = sum(one.steps for one in trials)
    ended = [one.steps for one in trials if one.state != RUNNING]
    to_come = max(0, request.max_trials - len(trials))
    of_one = sum(ended) / len(ended) if ended else (trials[0].max_steps if trials else 0)
    running = sum(one.max_steps for one in trials if one.state == RUNNING)
    return done, int(sum(ended) + running + to_come * of_one)


def _warn_of_few_evaluations(request: Hyperparameters, training: TrainingArguments) -> None:
    evaluations = training.max_steps / training.resolved_steps_per_eval()
    if request.early_stopping and evaluations < 3:
        log_event(
            "early_stopping_late",
            f"tune: a trial of {training.max_steps:,} steps is evaluated every "
            f"{training.resolved_steps_per_eval():,}: too seldom to stop it early: lower "
            "train_steps_per_eval",
            severity="WARNING",
        )
