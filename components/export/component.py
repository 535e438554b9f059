"""The export step as a KFP component."""

from pathlib import Path

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.export.arguments import ExportArguments


def export(
    dataset: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    exported_model: Output[Model],
    serving_metrics: Output[Metrics],
    arguments: ExportArguments,
) -> None:
    """Publishes the model once a fresh process has answered with it as the evaluation did.

    Args:
        dataset: What the convert step made: the images to ask for.
        model: What the train step made.
        evaluation: What the evaluate step found: the answers to expect.
        exported_model: The checked SavedModel, ready to be served.
        serving_metrics: Latency of a request of one image (median and 99th percentile, in milliseconds), time
            to the first answer, size of the model.
        arguments: Where to publish, and how fast the model must answer.
    """
    from components.export.export import export as run_export

    measured = run_export(
        Path(dataset.path),
        Path(model.path),
        Path(evaluation.path),
        Path(exported_model.path),
        arguments,
    )
    serving_metrics.log_metric("latency_p50_ms", round(measured.latency_p50_ms, 3))
    serving_metrics.log_metric("latency_p99_ms", round(measured.latency_p99_ms, 3))
    serving_metrics.log_metric("start_seconds", round(measured.start_seconds, 3))
    serving_metrics.log_metric("model_megabytes", round(measured.model_bytes / 1e6, 3))
    # Only what is said of the model: an orchestrator keeps things of the input artifact's own beside it.
    for name in ("framework", "model_type", "best_step"):
        if name in model.metadata:
            exported_model.metadata[name] = model.metadata[name]
