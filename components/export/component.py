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
    """Publishes the model once a fresh process has answered with it as the evaluation did.

    Args:
        dataset: What the convert step made: the images to ask for.
        model: What the train step made.
        evaluation: What the evaluate step found: the answers to expect.
        exported_model: The checked SavedModel, ready to be served; further formats in its folder formats/.
        serving_metrics: Latency of a request of one image (median and 99th percentile, in milliseconds), time
            to the first answer, size of the model; of each further format its top-1 accuracy, what it loses
            of the SavedModel's, and its size.
        summary: The same for a person.
        arguments: Where to publish, how fast the model must answer, and in which further formats it goes.
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
    for one in exported.formats:
        name = one.format.replace("-", "_")
        serving_metrics.log_metric(f"{name}_top_1_accuracy", one.top_1_accuracy)
        serving_metrics.log_metric(f"{name}_accuracy_loss", one.accuracy_loss)
        serving_metrics.log_metric(f"{name}_megabytes", round(one.bytes / 1e6, 3))
    Path(summary.path).parent.mkdir(parents=True, exist_ok=True)
    Path(summary.path).write_text(exported.to_markdown(), encoding="utf-8")
    # Only what is said of the model: an orchestrator keeps things of the input artifact's own beside it.
    for name in ("framework", "model_type", "best_step"):
        if name in model.metadata:
            exported_model.metadata[name] = model.metadata[name]
