"""Hands what came of a tuning over to the artifacts of its step."""

import json
import shutil
from pathlib import Path
from typing import Any

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.log import log_event
from imgpipe.components.common.published_model import publish_model_at
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.files import joined
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.job_dir import REPORT_FILE, TRIALS_FILE, trial_model_location
from imgpipe.components.tune.trials import FAILED
from imgpipe.components.tune.tune import TuningResult


def gather(job_dir: Path, trials: Path, report: Path) -> None:
    """Copies trials.json and the page, as far as they are there: above all when the search has failed.

    Args:
        job_dir: Of the tuning.
        trials: The folder that gets trials.json.
        report: The file that the page becomes.
    """
    if (job_dir / TRIALS_FILE).is_file() and job_dir != trials:
        trials.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job_dir / TRIALS_FILE, trials / TRIALS_FILE)
    if (job_dir / REPORT_FILE).is_file():
        report.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job_dir / REPORT_FILE, report)


def upload_outcome(folder: Path, job_dir: str) -> None:
    """Copies trials.json and the page into a job_dir in Cloud Storage, as far as they are there.

    Paths in the step's folder become those in job_dir.

    Args:
        folder: Where the step wrote them.
        job_dir: ``gs://``.
    """
    here = json.dumps(str(folder.absolute()))[1:-1]
    for name in (TRIALS_FILE, REPORT_FILE):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8").replace(here, job_dir.rstrip("/"))
            cloud_storage.write_object(joined(job_dir, name), text.encode())


def upload_models(result: TuningResult, job_dir: str) -> None:
    """Copies the trials' models into a job_dir in Cloud Storage.

    Args:
        result: Of the tuning.
        job_dir: ``gs://``.
    """
    for trial in result.trials:
        if trial.model:
            publish_model_at(Path(trial.model), trial_model_location(job_dir, str(trial.id)))


def warn_of_no_memory(job_dir: str) -> None:
    """Says what a search in the step does without where its job_dir is in Cloud Storage."""
    log_event(
        "search_in_step",
        f"tune: the search's memory stays in the step; {job_dir} gets models, trials.json and tuning.html at "
        "the end: a step that is started again begins the search anew",
        severity="WARNING",
    )


def hand_over(result: TuningResult, arguments: TrainingArguments, model: Any, metrics: Any) -> None:
    """Writes the metrics and what is known of the model.

    Args:
        result: Of the tuning.
        arguments: What all trials had in common.
        model: The Model artifact.
        metrics: The Metrics artifact.
    """
    best = result.best
    for name in (METRIC, "top_5_accuracy", "loss"):
        metrics.log_metric(name, float(best.final[name]))
    metrics.log_metric("best_trial", float(best.id))
    metrics.log_metric("best_step", float(best.final["step"]))
    metrics.log_metric("trials", float(len(result.trials)))
    metrics.log_metric("trials_stopped_early", float(sum(bool(one.stop_reason) for one in result.trials)))
    metrics.log_metric("trials_failed", float(sum(one.state == FAILED for one in result.trials)))
    model.metadata["framework"] = "TensorFlow"
    model.metadata["model_type"] = str(best.values.get("model_type", arguments.model_type))
    model.metadata["best_trial"] = best.id
    model.metadata["best_step"] = best.final["step"]
    model.metadata["values"] = dict(best.values)
