"""The serving_model step as a KFP component."""

# KFP reads its annotations as values: OutputPath(str) is a call.
# mypy: disable-error-code="valid-type"

from pathlib import Path

from kfp.dsl import OutputPath

from imgpipe.components.serving_model.arguments import ServingModelArguments


def serving_model(initial_model: OutputPath(str), arguments: ServingModelArguments) -> None:
    """Finds the deployed model, for a training run that starts from its weights.

    Args:
        initial_model: Its folder; if no model is deployed, pretrained_checkpoint_path.
        arguments: Where it serves, and what to start from if there is none.
    """
    from imgpipe.components.serving_model.serving_model import find_initial_model

    Path(initial_model).write_text(find_initial_model(arguments), encoding="utf-8")
