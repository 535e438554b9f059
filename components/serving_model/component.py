"""The serving_model step as a KFP component."""

from imgpipe.components.serving_model.arguments import ServingModelArguments


def serving_model(arguments: ServingModelArguments) -> str:
    """Finds the model that serves now, for a training that starts from its weights.

    Args:
        arguments: Where it serves, and what to start from while there is none.
    """
    from imgpipe.components.serving_model.serving_model import start_of_training

    return start_of_training(arguments)
