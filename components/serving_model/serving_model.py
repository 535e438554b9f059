"""Finds what a retraining starts from."""

from components.common.errors import MissingInputError
from components.common.log import log_event, log_result
from components.deploy.serving import serving_location
from components.serving_model.arguments import ServingModelArguments


def start_of_training(arguments: ServingModelArguments) -> str:
    """Returns the folder of the model that serves; ``pretrained_checkpoint_path`` as long as none does.

    Raises:
        InvalidArgumentError: if credentials would go over plain http.
        OutputError: if the deployment is not one that imgpipe made, or its model lies in no bucket.
        UnavailableError: if the service refuses, or its client is not installed. Starting anew instead would
            train another model than was asked for.
        InterruptedRunError: if the service cannot be reached.
    """
    try:
        location = serving_location(arguments)
    except MissingInputError as error:
        location = arguments.pretrained_checkpoint_path
        start = f"from pretrained_checkpoint_path={location}" if location else "as weights says"
        log_event(
            "no_serving_model",
            f"serving_model: {error.problem}: the training starts {start}",
            severity="WARNING",
        )
    log_result("serving_model", f"starts from {location}" if location else "none yet", location=location)
    return location
