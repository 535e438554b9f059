"""The tune step on Kubeflow as a KFP component: the trials run in the step, or as an Experiment of Katib."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.component import tune as tune_in_the_step
from imgpipe.components.tune.katib_arguments import KATIB, KatibArguments, TrialPodArguments


def tune(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    trials: Output[Artifact],
    tuning: TuneArguments,
    arguments: TrainingArguments,
    katib: KatibArguments,
    pod: TrialPodArguments,
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
        katib: Who runs the trials, and what each trial of Katib's asks of the cluster.
        pod: Image and secret of Katib's trials.
    """
    if katib.tune_engine != KATIB:
        tune_in_the_step(dataset, model, metrics, report, trials, tuning, arguments)
        return
    from imgpipe.components.tune.job_dir import check_seen_by_all
    from imgpipe.components.tune.outcome import gather, hand_over, upload_outcome
    from imgpipe.components.tune.tune import TuningFiles
    from imgpipe.components.tune.tune import tune as run_tuning

    check_seen_by_all(tuning.job_dir)
    try:
        from imgpipe.components.tune.engines.katib import KatibSearch
    except ImportError as error:
        raise UnavailableError(
            f"tune_engine=katib needs a package that the step's image does not hold: {error}",
            remedy="add the extra katib to the image of the train step, or give tune_engine=local",
        ) from None

    # What the step itself writes; the trials' own files lie in job_dir.
    folder = Path(trials.path)
    try:
        result = run_tuning(
            tuning,
            arguments,
            Path(dataset.path),
            TuningFiles(folder, Path(model.path)),
            engine=lambda spec: KatibSearch(spec, tuning.job_dir, katib, pod),
            engine_name="katib",
        )
    finally:
        gather(folder, folder, Path(report.path))
        upload_outcome(folder, tuning.job_dir)
    hand_over(result, arguments, model, metrics)
