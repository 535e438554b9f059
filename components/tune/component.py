"""The tune step as a KFP component: the search runs in the step, its trials in parallel processes."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.train.arguments import TrainingArguments
from components.tune.arguments import TuneArguments


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
    from components.tune.job_dir import check_on_this_machine
    from components.tune.outcome import gather, hand_over
    from components.tune.tune import TuningFiles
    from components.tune.tune import tune as run_tuning

    check_on_this_machine(tuning.job_dir)
    folder = Path(trials.path)
    files = TuningFiles(Path(tuning.job_dir).expanduser() if tuning.job_dir else folder, Path(model.path))
    try:
        result = run_tuning(tuning, arguments, Path(dataset.path), files)
    finally:
        gather(files.job_dir, folder, Path(report.path))
    hand_over(result, arguments, model, metrics)
