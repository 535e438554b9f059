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
        predictions: The files predictions-00000.jsonl and so on; if output_dir is set, only its name, in the
            metadata.
        metrics: The number of images, and of those with an error.
        arguments: The model, the images and the output.
    """
    from imgpipe.components.batch_predict.batch_predict import batch_predict as run_prediction

    output_dir = arguments.output_dir or predictions.path
    summary = run_prediction(arguments, output_dir)
    # Not as the artifact's uri: KFP's launcher fails a step whose uri is outside the pipeline root.
    if arguments.output_dir:
        predictions.metadata["output_dir"] = arguments.output_dir
    metrics.log_metric("images", float(summary.images))
    metrics.log_metric("failed", float(summary.failed))
