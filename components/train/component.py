"""The train step as a KFP component."""

import dataclasses
from pathlib import Path

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from imgpipe.components.common.step_folder import default_job_dir
from imgpipe.components.train.arguments import TrainingArguments


def train(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    arguments: TrainingArguments,
) -> None:
    """Trains an image classifier and keeps the model of its most accurate evaluation.

    Args:
        dataset: The output of the convert step: a manifest and its shards.
        model: The SavedModel of the best evaluation (not the last one), with assets/labels.txt,
            deployment_config.yaml and provenance.json.
        metrics: Accuracy, losses, temperature and step of the best evaluation; with multi_label also mean
            average precision and F1.
        arguments: The settings of the training.
    """
    # Imported here because it loads TensorFlow, which compiling a pipeline does not require.
    from imgpipe.components.common.provenance import read_provenance
    from imgpipe.components.train.train import train as run_training

    if not arguments.job_dir:
        arguments = dataclasses.replace(arguments, job_dir=default_job_dir("train", model.uri or ""))
    best = run_training(arguments, Path(dataset.path), Path(model.path)).best
    figures = best.figures()
    figures["best_step"] = figures.pop("step")
    for name, value in figures.items():
        metrics.log_metric(name, float(value))
    model.metadata["framework"] = "TensorFlow"
    model.metadata["model_type"] = read_provenance(Path(model.path))["model_type"]
    model.metadata["best_step"] = best.step
