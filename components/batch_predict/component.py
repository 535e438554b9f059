"""Batch prediction as a KFP component."""

from kfp.dsl import Artifact, Metrics, Output

from imgpipe.components.batch_predict.arguments import BatchPredictArguments


def batch_predict(
    predictions: Output[Artifact],
    metrics: Output[Metrics],
    arguments: BatchPredictArguments,
) -> None:
    """Writes one line of JSON per image: class, label and probability, or an error for that image.

    Args:
        predictions: The files predictions-00000.jsonl and so on, unless output_dir is set.
        metrics: The number of images, and of those with an error.
        arguments: The model, the images and the output.
    """
    from imgpipe.components.batch_predict.batch_predict import batch_predict as run_prediction

    output_dir = arguments.output_dir or predictions.path
    summary = run_prediction(arguments, output_dir)
    if arguments.output_dir:
        predictions.uri = arguments.output_dir
    metrics.log_metric("images", float(summary.images))
    metrics.log_metric("failed", float(summary.failed))
