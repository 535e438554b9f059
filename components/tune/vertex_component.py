"""The tune step on Vertex AI as a KFP component: creates a HyperparameterTuningJob and follows it."""

# KFP reads its annotations as values: OutputPath(str) is a call.
# mypy: disable-error-code="valid-type"

from pathlib import Path

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output, OutputPath

from imgpipe.components.common.docstrings import with_args_of
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.component import tune as tune_in_step


@with_args_of(
    tune_in_step,
    gcp_resources="The HyperparameterTuningJob, which Vertex AI links to the step.",
    job="The machines that the trials run on.",
    run="Project, region and pipeline job of the run.",
)
def tune(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    trials: Output[Artifact],
    gcp_resources: OutputPath(str),
    tuning: TuneArguments,
    arguments: TrainingArguments,
    job: CustomJobArguments,
    run: RunArguments,
) -> None:
    """Trains many trials with different hyperparameters and keeps the best trial's model."""
    from imgpipe.components.storage import mount_of_bucket
    from imgpipe.components.tune.engines.vertex import VertexSearch
    from imgpipe.components.tune.outcome import run_step

    run_step(
        *(dataset, model, metrics, report, trials, tuning, arguments),
        # Vertex AI mounts Cloud Storage there, in the step and in the trials.
        job_dir=Path(mount_of_bucket(tuning.job_dir or trials.path)),
        engine=lambda spec: VertexSearch(spec, job, run, Path(gcp_resources)),
        engine_name="vertex",
    )
