"""Finds what a retraining starts from."""

import json

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.provenance import PROVENANCE_NAME
from imgpipe.components.deploy.serving import find_serving_model
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import joined, read_file
from imgpipe.components.train.model_types import MODEL_TYPES


def find_initial_model(arguments: ServingModelArguments) -> str:
    """Returns the folder of the model that serves; ``pretrained_checkpoint_path`` as long as none does.

    Raises:
        InvalidArgumentError: if the model that serves is of another network than ``model_type``, or
            credentials would go over plain http.
        OutputError: if the deployment is not one that imgpipe made, or its model lies in no bucket.
        UnavailableError: if the service refuses, or its client is not installed. Starting anew instead would
            train another model than was asked for.
        InterruptedRunError: if the service cannot be reached.
    """
    try:
        location = find_serving_model(arguments)
    except MissingInputError as error:
        location = arguments.pretrained_checkpoint_path
        start = f"from pretrained_checkpoint_path={location}" if location else "as weights says"
        log_event(
            "no_serving_model",
            f"serving_model: {error.problem}: the training starts {start}",
            severity="WARNING",
        )
    else:
        check_model_type(location, arguments.model_type)
        if arguments.pretrained_checkpoint_path:
            log_event(
                "argument_ignored",
                f"serving_model: pretrained_checkpoint_path={arguments.pretrained_checkpoint_path} is "
                "ignored: the training starts from the model that serves",
            )
    log_result("serving_model", f"starts from {location}" if location else "none yet", location=location)
    return location


def check_model_type(location: str, model_type: str) -> None:
    """Refuses to train another network on from a model's weights, where the model says which it is.

    Where it does not, or names one that this version does not know, the training itself finds out.

    Args:
        location: Of the model that serves, or of the folder with its versions.
        model_type: Of the training.

    Raises:
        InvalidArgumentError: naming both.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    serving = _model_type_of(location)
    if serving in MODEL_TYPES and serving != model_type:
        raise InvalidArgumentError(
            f"model_type={model_type}, but the model that serves is {serving}: no other network can start "
            "from its weights",
            where=location,
            remedy=f"give model_type={serving}; to change the network, run once without --retrain, with the "
            "pipeline image-classification",
        )


def _model_type_of(location: str) -> str:
    """Returns what a model's provenance says; empty if it says nothing."""
    # KServe's servers look for a version in the folder; what imgpipe uploads is version 1.
    for folder in (location, joined(location, "1")) if is_cloud_path(location) else (location,):
        try:
            return str(json.loads(read_file(joined(folder, PROVENANCE_NAME)))["model_type"])
        except (OSError, MissingInputError, ValueError, LookupError, TypeError):
            continue
    return ""
