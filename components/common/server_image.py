"""Whether a server of TensorFlow models can load a model, judged by the name and tag of its image."""

import re
from pathlib import Path

import yaml

from imgpipe.components.common.errors import CheckFailedError
from imgpipe.components.common.provenance import DEPLOYMENT_CONFIG_NAME

_OLDEST = (2, 6)
_VERSIONED = (
    # TensorFlow Serving and copies of it, e.g. HOST/PROJECT/tensorflow-serving:2.6.2-gpu. Versions before 1
    # are those of someone's own image.
    re.compile(r"(?:.*/)?tensorflow[/_-]serving:v?([12])\.(\d+)(?!\d)"),
    # Google's prebuilt images, e.g. HOST/vertex-ai/prediction/tf2-cpu.2-15:latest.
    re.compile(r"(?:.*/)?tf2?-(?:opt-)?[cg]pu\.(\d+)-(\d+)(?!\d)"),
)


def check_server_image(image: str, model_folder: Path, *, name: str, remedy: str) -> None:
    """Rejects an image whose TensorFlow is older than a model requires.

    An image whose name does not say its version is accepted: the model's answers are checked later.

    Args:
        image: The image's name.
        model_folder: The model.
        name: What names the image, e.g. ``serving_image``.
        remedy: What to do.

    Raises:
        CheckFailedError: naming the versions that can load the model.
    """
    required = _required_version(model_folder)
    for pattern in _VERSIONED:
        match = pattern.match(image)
        if match and (int(match[1]), int(match[2])) < required:
            raise CheckFailedError(
                f"{image} of {name} cannot load the model, which requires TensorFlow "
                f"{required[0]}.{required[1]} or later",
                remedy=remedy,
            )


def _required_version(model_folder: Path) -> tuple[int, int]:
    """Returns the oldest TensorFlow version that can load a model, as its deployment_config.yaml says."""
    try:
        config = yaml.safe_load((model_folder / DEPLOYMENT_CONFIG_NAME).read_text(encoding="utf-8"))
        major, minor = str(config["minimumRuntimeVersion"]).split(".")
        return int(major), int(minor)
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return _OLDEST
