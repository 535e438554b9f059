"""The export step as a KFP component."""

from pathlib import Path

from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from imgpipe.components.export.arguments import ExportArguments


def export(
    dataset: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    exported_model: Output[Model],
    serving_metrics: Output[Metrics],
    summary: Output[Markdown],
    arguments: ExportArguments,
) -> None:
    """Publishes the model if its predictions in a new process match the evaluation.

    Args:
        dataset: The dataset from the convert step.
        model: The model from the train step.
        evaluation: The evaluation from the evaluate step, with the expected predictions.
        exported_model: The verified SavedModel, ready to serve, with additional formats in formats/.
        serving_metrics: Latency of a request with one image (median and 99th percentile, in milliseconds),
            time to the first prediction and size of the model; for each additional format its top-1 accuracy,
            the loss against the SavedModel and its size.
        summary: The serving metrics as Markdown.
        arguments: Where to publish, the latency limit and the additional formats.
    """
    from imgpipe.components.export.export import export as run_export

    exported = run_export(
        Path(dataset.path),
        Path(model.path),
        Path(evaluation.path),
        Path(exported_model.path),
        arguments,
    )
    measured = exported.measured
    serving_metrics.log_metric("latency_p50_ms", round(measured.latency_p50_ms, 3))
    serving_metrics.log_metric("latency_p99_ms", round(measured.latency_p99_ms, 3))
    serving_metrics.log_metric("start_seconds", round(measured.start_seconds, 3))
    serving_metrics.log_metric("model_megabytes", round(measured.model_bytes / 1e6, 3))
    for converted in exported.formats:
        name = converted.format.replace("-", "_")
        serving_metrics.log_metric(f"{name}_top_1_accuracy", converted.top_1_accuracy)
        serving_metrics.log_metric(f"{name}_accuracy_loss", converted.accuracy_loss)
        serving_metrics.log_metric(f"{name}_megabytes", round(converted.bytes / 1e6, 3))
    Path(summary.path).parent.mkdir(parents=True, exist_ok=True)
    Path(summary.path).write_text(exported.to_markdown(), encoding="utf-8")
    # Only the model's own metadata: orchestrators add entries that belong to the input artifact.
    for name in ("framework", "model_type", "best_step"):
        if name in model.metadata:
            exported_model.metadata[name] = model.metadata[name]
