"""Runs a search and copies its results to the artifacts of the step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.published_model import publish_model_at
from imgpipe.components.storage import Location, is_local, parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import Engine, TuningSpec
from imgpipe.components.tune.engines.local import LocalSearch
from imgpipe.components.tune.job_dir import REPORT_FILE, TRIALS_FILE, trial_model
from imgpipe.components.tune.trials import FAILED
from imgpipe.components.tune.tune import LOCAL, TuningFiles, TuningResult, tune


def run_step(
    dataset: Any,
    model: Any,
    metrics: Any,
    report: Any,
    trials: Any,
    tuning: TuneArguments,
    arguments: TrainingArguments,
    *,
    job_dir: Path,
    engine: Callable[[TuningSpec], Engine] = LocalSearch,
    engine_name: str = LOCAL,
) -> None:
    """Runs the search and writes the artifacts of the step.

    If the search fails, the artifacts still get trials.json and the report.

    Args:
        dataset: The Dataset artifact.
        model: The Model artifact.
        metrics: The Metrics artifact.
        report: The HTML artifact.
        trials: The artifact for trials.json.
        tuning: What is tuned, and how.
        arguments: The training arguments shared by all trials.
        job_dir: Where the search writes. If this is the trials artifact although ``tuning.job_dir`` is in
            a bucket, the results are uploaded there.
        engine: Creates the engine.
        engine_name: The engine's name, for the report.
    """
    folder = Path(trials.path)
    target = parse_location(tuning.job_dir)
    upload = job_dir == folder and not target.is_local
    files = TuningFiles(job_dir, Path(model.path))
    try:
        result = tune(tuning, arguments, Path(dataset.path), files, engine=engine, engine_name=engine_name)
        if upload:
            upload_models(result, target)
    finally:
        _copy_results(job_dir, folder, Path(report.path))
        if upload:
            upload_results(folder, target)
    best = result.best
    for name in (METRIC, "top_5_accuracy", "loss"):
        metrics.log_metric(name, float(best.final[name]))
    metrics.log_metric("best_trial", float(best.id))
    metrics.log_metric("best_step", float(best.final["step"]))
    metrics.log_metric("trials", float(len(result.trials)))
    metrics.log_metric("trials_stopped_early", float(sum(bool(trial.stop_reason) for trial in result.trials)))
    metrics.log_metric("trials_failed", float(sum(trial.state == FAILED for trial in result.trials)))
    model.metadata["framework"] = "TensorFlow"
    model.metadata["model_type"] = result.model_type
    model.metadata["best_trial"] = best.id
    model.metadata["best_step"] = best.final["step"]
    model.metadata["values"] = dict(best.values)


def _copy_results(job_dir: Path, trials: Path, report: Path) -> None:
    if (job_dir / TRIALS_FILE).is_file() and job_dir != trials:
        trials.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job_dir / TRIALS_FILE, trials / TRIALS_FILE)
    if (job_dir / REPORT_FILE).is_file():
        report.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job_dir / REPORT_FILE, report)


def upload_results(folder: Path, job_dir: Location) -> None:
    """Copies trials.json and the report, if they exist, to a job_dir in a bucket.

    Paths below the step's folder are replaced by paths below job_dir.

    Args:
        folder: The step's folder.
        job_dir: The tuning's job_dir.
    """
    here = json.dumps(str(folder.absolute()))[1:-1]
    for name in (TRIALS_FILE, REPORT_FILE):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8").replace(here, str(job_dir))
            (job_dir / name).write(text.encode())


def upload_models(result: TuningResult, job_dir: Location) -> None:
    """Copies the trials' models that are not in a bucket yet to a job_dir there.

    Args:
        result: The result of the tuning.
        job_dir: In a bucket.
    """
    for trial in result.trials:
        if trial.model and is_local(trial.model):
            publish_model_at(Path(trial.model), trial_model(job_dir, trial.id))
