"""The serving_model step as a KFP component."""

from imgpipe.components.serving_model.arguments import ServingModelArguments


def serving_model(arguments: ServingModelArguments) -> str:
    """Finds the deployed model, for a training that starts from its weights.

    Args:
        arguments: Where it serves, and what to start from if there is none.
    """
    from imgpipe.components.serving_model.serving_model import find_initial_model

    return find_initial_model(arguments)
