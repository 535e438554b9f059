"""The train step as a KFP component."""

from pathlib import Path

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from imgpipe.components.train.arguments import TrainingArguments


def train(
    dataset: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    arguments: TrainingArguments,
) -> None:
    """Trains an image classifier and keeps the model of its most accurate evaluation.

    Args:
        dataset: What the convert step made: a manifest and its shards.
        model: The SavedModel of the best evaluation (not the last one), with assets/labels.txt,
            deployment_config.yaml and provenance.json.
        metrics: Accuracy and loss of the best evaluation, and its step; with multi_label, mean average
            precision and F1 too.
        arguments: How to train.
    """
    # Imported here: it loads TensorFlow, which whoever compiles a pipeline need not have.
    from imgpipe.components.train.multi_label_evaluation import MultiLabelEvaluation
    from imgpipe.components.train.train import train as run_training

    best = run_training(arguments, Path(dataset.path), Path(model.path)).best
    metrics.log_metric("top_1_accuracy", best.top_1_accuracy)
    metrics.log_metric("top_5_accuracy", best.top_5_accuracy)
    metrics.log_metric("loss", best.loss)
    if isinstance(best, MultiLabelEvaluation):
        metrics.log_metric("mean_average_precision", best.mean_average_precision)
        metrics.log_metric("f1", best.f1)
    metrics.log_metric("best_step", float(best.step))
    model.metadata["framework"] = "TensorFlow"
    model.metadata["model_type"] = arguments.model_type
    model.metadata["best_step"] = best.step
