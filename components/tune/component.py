"""The tune step as a KFP component: the search runs in the step, with parallel trial processes."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from imgpipe.components.common.log import log_event
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments


def tune(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    trials: Output[Artifact],
    tuning: TuneArguments,
    arguments: TrainingArguments,
) -> None:
    """Trains many trials with different hyperparameters and keeps the best trial's model.

    Args:
        dataset: The dataset from the convert step: a manifest and its shards.
        model: The SavedModel of the best trial's best evaluation, with assets/labels.txt,
            deployment_config.yaml and provenance.json.
        metrics: Metrics of the best trial, and the number of trials in all, stopped early and failed.
        report: HTML report with all trials, their learning curves and the effect of each hyperparameter.
        trials: trials.json, in the format of AI Platform's TrainingOutput; without a job_dir, the trials'
            models too.
        tuning: What is tuned, and how.
        arguments: The training arguments shared by all trials.
    """
    # Imported here because it loads Optuna, which is not needed to compile a pipeline.
    from imgpipe.components.tune.outcome import run_step

    location = parse_location(tuning.job_dir)
    if not location.is_local:
        location.check_writable()
        log_event(
            "search_in_step",
            f"tune: the study is kept in the step, and {tuning.job_dir} gets models, trials.json and "
            "tuning.html at the end: if the step restarts, so does the search",
            severity="WARNING",
        )
        job_dir = Path(trials.path)
    else:
        job_dir = Path(tuning.job_dir or trials.path).expanduser()
    run_step(dataset, model, metrics, report, trials, tuning, arguments, job_dir=job_dir)
