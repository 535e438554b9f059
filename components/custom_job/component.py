"""The train step on Vertex AI as a KFP component."""

# KFP reads its annotations as values: OutputPath(str) is a call.
# mypy: disable-error-code="valid-type"

from pathlib import Path

from kfp.dsl import Dataset, Input, Metrics, Model, Output, OutputPath

from imgpipe.components.common.docstrings import with_args_of
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.component import train as train_in_step


@with_args_of(
    train_in_step,
    gcp_resources="The CustomJob, which Vertex AI links to the step.",
    job="The machines that the training runs on.",
    run="Project, region and pipeline job of the run.",
)
def train(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    gcp_resources: OutputPath(str),
    arguments: TrainingArguments,
    job: CustomJobArguments,
    run: RunArguments,
) -> None:
    """Trains an image classifier as a CustomJob and keeps the model of its most accurate evaluation."""
    from imgpipe.components.custom_job.custom_job import train_as_job

    best = train_as_job(arguments, job, run, Path(dataset.path), Path(model.path), Path(gcp_resources))
    for name in ("top_1_accuracy", "top_5_accuracy", "loss", "mean_average_precision", "f1"):
        if name in best:
            metrics.log_metric(name, float(best[name]))
    metrics.log_metric("best_step", float(best["step"]))
    model.metadata["framework"] = "TensorFlow"
    model.metadata["model_type"] = best["model_type"]
    model.metadata["best_step"] = best["step"]
