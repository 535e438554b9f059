"""The tune step as a KFP component: the search runs in the step, its trials in parallel processes."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.folders import check_folder_writable
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
    """Tries many values of the training's arguments and keeps the model of the best trial.

    Args:
        dataset: What the convert step made: a manifest and its shards.
        model: The SavedModel of the best trial's best evaluation, with assets/labels.txt,
            deployment_config.yaml and provenance.json.
        metrics: Of the best trial; how many trials there were, and how many were stopped or failed.
        report: The page with all trials, their learning curves and what the parameters did.
        trials: trials.json, in the form of AI Platform's TrainingOutput; without a job_dir, the trials'
            models too.
        tuning: What is tuned, and how.
        arguments: What all trials have in common.
    """
    # Imported here: it loads Optuna, which whoever compiles a pipeline need not have.
    from imgpipe.components.tune.outcome import (
        gather,
        hand_over,
        upload_models,
        upload_outcome,
        warn_of_no_memory,
    )
    from imgpipe.components.tune.tune import TuningFiles
    from imgpipe.components.tune.tune import tune as run_tuning

    folder, in_cloud = Path(trials.path), is_cloud_path(tuning.job_dir)
    own = folder if in_cloud or not tuning.job_dir else Path(tuning.job_dir).expanduser()
    if in_cloud:
        check_folder_writable(tuning.job_dir)
        warn_of_no_memory(tuning.job_dir)
    files = TuningFiles(own, Path(model.path))
    try:
        result = run_tuning(tuning, arguments, Path(dataset.path), files)
        if in_cloud:
            upload_models(result, tuning.job_dir)
    finally:
        gather(files.job_dir, folder, Path(report.path))
        if in_cloud:
            upload_outcome(folder, tuning.job_dir)
    hand_over(result, arguments, model, metrics)
