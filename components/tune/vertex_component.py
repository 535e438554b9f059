"""The tune step on Vertex AI as a KFP component: it starts a HyperparameterTuningJob and follows it."""

import re
from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output, OutputPath

from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments


def tune(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    trials: Output[Artifact],
    gcp_resources: OutputPath(str),  # type: ignore[valid-type]
    tuning: TuneArguments,
    arguments: TrainingArguments,
    job: CustomJobArguments,
    run: RunArguments,
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
        gcp_resources: The HyperparameterTuningJob, by which the step is linked with it.
        tuning: What is tuned, and how.
        arguments: What all trials have in common.
        job: On what the trials run.
        run: Where the run is.
    """
    from imgpipe.components.tune.engines.vertex import VertexSearch
    from imgpipe.components.tune.outcome import gather, hand_over
    from imgpipe.components.tune.tune import TuningFiles
    from imgpipe.components.tune.tune import tune as run_tuning

    folder = Path(trials.path)
    # Buckets are mounted there, on the trials' machines too.
    job_dir = Path(re.sub("^gs://", "/gcs/", tuning.job_dir)) if tuning.job_dir else folder
    files = TuningFiles(job_dir, Path(model.path))

    try:
        result = run_tuning(
            tuning,
            arguments,
            Path(dataset.path),
            files,
            engine=lambda spec: VertexSearch(spec, job, run, Path(gcp_resources)),
            engine_name="vertex",
        )
    finally:
        gather(files.job_dir, folder, Path(report.path))
    hand_over(result, arguments, model, metrics)
