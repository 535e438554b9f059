"""Finds the model from which a retraining starts."""

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.deploy.serving import find_serving_model
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.storage import Location
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.recipes import AUTO
from imgpipe.components.train.resolution import earlier_network


def find_initial_model(arguments: ServingModelArguments) -> str:
    """Returns the folder of the serving model, or ``pretrained_checkpoint_path`` if no model serves.

    Raises:
        InvalidArgumentError: if the serving model is not a ``model_type``, or credentials would be sent over
            plain http.
        OutputError: if imgpipe did not create the deployment, or its model is not in a bucket.
        UnavailableError: if the service rejects the request, or its client is not installed. Starting from
            other weights would train another model than requested.
        InterruptedRunError: if the service cannot be reached.
    """
    try:
        serving = find_serving_model(arguments)
    except MissingInputError as error:
        location = arguments.pretrained_checkpoint_path
        start = f"pretrained_checkpoint_path={location}" if location else "the argument weights"
        log_event(
            "no_serving_model",
            f"serving_model: {error.problem}: the training starts from {start}",
            severity="WARNING",
        )
    else:
        location = str(serving)
        check_model_type(serving, arguments.model_type)
        if arguments.pretrained_checkpoint_path:
            log_event(
                "argument_ignored",
                f"serving_model: pretrained_checkpoint_path={arguments.pretrained_checkpoint_path} is "
                "ignored: the training starts from the deployed model",
            )
    log_result("serving_model", f"starts from {location}" if location else "none yet", location=location)
    return location


def check_model_type(location: Location, model_type: str) -> None:
    """Rejects another model type than the serving model's.

    If the serving model does not state its type, or this version does not know it, the training checks.

    Args:
        location: The serving model, or the folder with its versions.
        model_type: The training's model type; ``auto`` = the serving model's.

    Raises:
        InvalidArgumentError: naming both types.
        InterruptedRunError: if a remote store cannot be reached.
    """
    serving = earlier_network(location).get("model_type")
    if model_type != AUTO and serving in MODEL_TYPES and serving != model_type:
        raise InvalidArgumentError(
            f"model_type={model_type} cannot start from the weights of the serving model, a {serving}",
            where=str(location),
            remedy=f"set model_type to {serving}; to change the network, run once without --retrain (in the "
            "pipeline image-classification)",
        )
