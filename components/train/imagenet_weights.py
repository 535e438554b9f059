"""Builds the networks of keras.applications, with ImageNet weights from this machine or a download."""

import os
import socket
from pathlib import Path

from imgpipe.components.common.tf_import import keras
from imgpipe.components.common.user_settings import KERAS_FALLBACK, keras_home
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.weight_files import (
    check_weights_file,
    damaged_weights,
    missing_weights,
    weights_file_name,
    weights_folder,
)

# A firewall that drops packets would block a download forever.
_DOWNLOAD_TIMEOUT_SECONDS = 20.0


def build_keras_network(model_type: str, image_size: int, *, imagenet: bool) -> keras.Model:
    """Builds a network without its last layer, with ImageNet or random weights.

    Args:
        model_type: A name of ``MODEL_TYPES`` with a ``keras_name``.
        image_size: Side of the square images, in pixels.
        imagenet: Whether to load the ImageNet weights.

    Raises:
        UnavailableError: if the ImageNet weights are not on this machine and cannot be downloaded, or their
            file is damaged.
    """
    if imagenet:
        link_weight_files()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
    try:
        return getattr(keras.applications, MODEL_TYPES[model_type].keras_name)(
            include_top=False,
            weights="imagenet" if imagenet else None,
            input_shape=(image_size, image_size, 3),
            pooling="avg",
        )
    except Exception as error:
        # keras.utils.get_file raises a bare Exception if a download fails, and OSError or ValueError if the
        # file on disk is damaged.
        if not imagenet:
            raise
        name = weights_file_name(model_type, image_size)
        file = weights_folder() / name
        if not file.exists():
            raise missing_weights(model_type, name, str(error)) from None
        check_weights_file(file, model_type)
        raise damaged_weights(file, model_type, str(error)) from None
    finally:
        socket.setdefaulttimeout(timeout)


def link_weight_files(fallback: Path = KERAS_FALLBACK) -> None:
    """Makes weights in a read-only folder of Keras visible to it, e.g. in an image or a read-only volume.

    Creates a link to each file in Keras' fallback folder; existing files there are kept.
    """
    models = keras_home() / "models"
    if os.access(keras_home(), os.W_OK) or not models.is_dir():
        return
    for file in sorted(models.iterdir()):
        link = fallback / "models" / file.name
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
