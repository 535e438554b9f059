"""The export step as a KFP component."""

from pathlib import Path

from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.export.arguments import ExportArguments


def export(
    dataset: Input[Dataset],
    model: Input[Model],
    evaluation: Input[Artifact],
    exported_model: Output[Model],
    arguments: ExportArguments,
) -> None:
    """Publishes the model once a fresh process has answered with it as the evaluation did.

    Args:
        dataset: What the convert step made: the images to ask for.
        model: What the train step made.
        evaluation: What the evaluate step found: the answers to expect.
        exported_model: The checked SavedModel, ready to be served.
        arguments: Where to publish.
    """
    from components.export.export import export as run_export

    run_export(
        Path(dataset.path),
        Path(model.path),
        Path(evaluation.path),
        Path(exported_model.path),
        arguments.job_dir,
    )
    # Only what is said of the model: an orchestrator keeps things of the input artifact's own beside it.
    for name in ("framework", "model_type", "best_step"):
        if name in model.metadata:
            exported_model.metadata[name] = model.metadata[name]
