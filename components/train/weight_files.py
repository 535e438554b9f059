"""Finds the files of ImageNet weights without loading Keras: a missing one is reported immediately."""

import os
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.common.user_settings import KERAS_FALLBACK, keras_home
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.recipes import AUTO, recipe_values

_SITE = "https://storage.googleapis.com/tensorflow/keras-applications/"
# Of the request that finds out whether weights can be downloaded.
_SECONDS_TO_CONNECT = 5.0


def check_weights(arguments: TrainingArguments) -> None:
    """Checks that a training run's ImageNet weights are on this machine, or that it can download them.

    Those of a training run that selects one of several networks are.

    Raises:
        UnavailableError: naming the file, and its folder, if it is damaged, or missing without a connection.
    """
    if networks_to_compare(arguments):
        return
    arguments = arguments.resolved()
    if arguments.weights != "imagenet" or arguments.pretrained_checkpoint_path:
        return
    name = weights_file_name(arguments.model_type, arguments.resolved_image_size())
    file = _find(name)
    if file is not None:
        check_weights_file(file, arguments.model_type)
        return
    try:
        request = urllib.request.Request(_SITE, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS_TO_CONNECT).close()  # noqa: S310 - https
    except HTTPError as error:
        # The site responds; whether it has the file shows in the download.
        error.close()
    except OSError as error:
        raise missing_weights(arguments.model_type, name, str(getattr(error, "reason", error))) from None


def has_weights(model_type: str, image_size: int = 0) -> bool:
    """Whether the ImageNet weights of a network are on this machine, complete, or can be downloaded."""
    try:
        check_weights(
            TrainingArguments(recipe="fine-tune", model_type=model_type, image_size=image_size).resolved()
        )
    except UnavailableError:
        return False
    return True


def networks_to_compare(arguments: TrainingArguments) -> list[str]:
    """Returns the networks of which a training run selects one; empty if there is nothing to select.

    They are those whose ImageNet weights are on this machine.

    Args:
        arguments: Those of the run; resolved arguments name the network.
    """
    if arguments.model_type != AUTO or arguments.pretrained_checkpoint_path:
        return []
    if recipe_values(vars(arguments))["weights"] != "imagenet":
        return []
    networks = [
        name
        for name, kind in MODEL_TYPES.items()
        if kind.has_imagenet_weights
        and _find(weights_file_name(name, arguments.image_size or kind.image_size))
    ]
    # Of a single network, the time is checked.
    return networks if len(networks) >= (1 if arguments.max_latency_ms else 2) else []


def check_weights_file(file: Path, model_type: str) -> None:
    """Checks that a file of weights is complete.

    Raises:
        UnavailableError: if not.
    """
    # Imported here because it takes a while to load.
    import h5py

    try:
        with h5py.File(file) as content:
            if not content.keys():
                raise OSError("it is empty")
    except OSError as error:
        raise damaged_weights(file, model_type, str(error)) from None


def damaged_weights(file: Path, model_type: str, reason: str) -> UnavailableError:
    """Returns the error for a file of weights that cannot be loaded."""
    return UnavailableError(
        f"the file with the ImageNet weights of {model_type} is damaged or of another network: {reason}",
        where=str(file),
        remedy="delete it, so that it is downloaded again, or copy it here again; or set weights to none",
    )


def missing_weights(model_type: str, name: str, reason: str) -> UnavailableError:
    """Returns the error for weights that cannot be downloaded."""
    if _is_read_only(keras_home()):
        # The folder for weights of an image; the other one is deleted with the container.
        remedy = (
            f"build the image of the training with the file {name} (docs/containers.md, section Pretrained "
            "weights), or set weights to none"
        )
    else:
        remedy = (
            f"copy the file {name} to this folder from a machine with internet access, where the same run "
            "downloads it to ~/.keras/models; or set weights to none"
        )
    return UnavailableError(
        f"the ImageNet weights of {model_type} are not on this machine and cannot be downloaded: {reason}",
        where=str(weights_folder() / name),
        remedy=remedy,
    )


def weights_folder() -> Path:
    """Returns the folder to which Keras downloads weights, and where it looks for them."""
    home = keras_home()
    return (KERAS_FALLBACK if _is_read_only(home) else home) / "models"


def _is_read_only(folder: Path) -> bool:
    return folder.exists() and not os.access(folder, os.W_OK)


def _find(name: str) -> Path | None:
    # A read-only folder is linked to the other one before Keras looks there.
    folders = (weights_folder(), keras_home() / "models")
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def weights_file_name(model_type: str, image_size: int) -> str:
    """Returns Keras' name for the file of a network's weights without its last layer."""
    name = MODEL_TYPES[model_type].keras_name.lower()
    family = MODEL_TYPES[model_type].family
    if family == "resnet":
        return f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    if family == "mobilenet-v2":
        size = image_size if image_size in (96, 128, 160, 192) else 224
        return f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5"
    if family in ("mobilenet-v3-small", "mobilenet-v3-large"):
        return f"weights_{family.replace('-', '_')}_224_1.0_float_no_top_v2.h5"
    if family == "convnext":
        return f"{model_type.replace('-', '_')}_notop.h5"
    if family == "efficientnet-v2":
        return f"{name.replace('v2', 'v2-')}_notop.h5"
    return f"{name}_notop.h5"
