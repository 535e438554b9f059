"""Which image a step runs in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml

# As registries take names: a host, perhaps with a port, and parts in lower case.
_HOST = r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?|[A-Za-z0-9-]+:\d+|localhost)"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(rf"(?:{_HOST}|{_PART})(?:/{_PART})*")
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[\w][\w.-]{{0,127}})?(?:@sha256:[0-9a-f]+)?", re.ASCII
)
# The roles differ in what they have installed: only train-* and serve-tools hold TensorFlow.
ROLES = ("data", "launcher", "serve-tools", "train-cpu", "train-gpu", "train-tpu")
_ROLE_OF_STEP = {
    "data_version": "data",
    "convert": "data",
    "validate": "data",
    "serving_model": "serve-tools",
    "train": "train-cpu",
    "evaluate": "serve-tools",
    "export": "serve-tools",
    "gate": "data",
    # Loads the model in a process of its own where the folder is local; elsewhere only asks others to.
    "deploy": "serve-tools",
    "batch_predict": "serve-tools",
}
# Where a step only asks for something elsewhere and follows it.
_LAUNCHED = {
    ("train", "vertex"): "launcher",
    ("serving_model", "vertex"): "launcher",
    ("serving_model", "kubeflow"): "launcher",
    ("deploy", "vertex"): "launcher",
    ("deploy", "kubeflow"): "launcher",
}


@dataclass(frozen=True)
class Images:
    """Names of our images.

    Attributes:
        registry: Where they are kept, e.g. a repository of Artifact Registry; empty = no prefix.
        lock: By name without registry (``imgpipe-data``): the whole name with digest. Goes before
            ``registry``.

    Raises:
        InvalidArgumentError: if ``registry`` cannot be the beginning of an image's name.
    """

    registry: str = ""
    lock: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the registry's name."""
        name = self.registry.removesuffix("/")
        if name and not _REGISTRY.fullmatch(name):
            raise InvalidArgumentError(
                f"--image-registry={self.registry!r} is not where images can be kept",
                remedy="write HOST/REPOSITORY without https:// and without a tag, the repository in lower "
                "case, e.g. europe-docker.pkg.dev/my-project/imgpipe",
            )

    def of_role(self, role: str) -> str:
        """Returns the image of a role, e.g. ``train-gpu``.

        Raises:
            InvalidArgumentError: if there is a lock without this image.
        """
        name = f"imgpipe-{role}"
        if self.lock:
            if name not in self.lock:
                raise InvalidArgumentError(
                    f"the images' lock has no {name}", remedy="build and push all images, then lock them"
                )
            return self.lock[name]
        prefix = f"{self.registry.rstrip('/')}/" if self.registry else ""
        # KFP's cache knows code by its image's name: never a tag that moves.
        return f"{prefix}{name}:{version('image-classification-pipeline')}"

    def of_step(self, step: str, target: str = "") -> str:
        """Returns the image of a step on a target."""
        return self.of_role(_LAUNCHED.get((step, target), _ROLE_OF_STEP[step]))

    def of_training(self, kind: str) -> str:
        """Returns the training image for a machine with ``cpu``, ``gpu`` or ``tpu``."""
        return self.of_role(f"train-{kind}")


def check_image(image: str, *, name: str, where: str = "") -> None:
    """Refuses what no registry takes for an image's name.

    Args:
        image: Its whole name.
        name: What the user wrote it as, e.g. ``--master-image-uri``.
        where: The file.

    Raises:
        InvalidArgumentError: naming it.
    """
    if image and not _IMAGE.fullmatch(image):
        raise InvalidArgumentError(
            f"{name}={image!r} is not the name of an image",
            where=where,
            remedy="write HOST/REPOSITORY/NAME:TAG or ...@sha256:DIGEST without https://, in lower case up "
            "to the tag",
        )


def read_images_lock(text: str, *, where: str) -> dict[str, str]:
    """Reads a lock: a line ``imgpipe-data: registry/repository/imgpipe-data@sha256:...`` an image.

    Raises:
        InvalidArgumentError: if an image has no digest.
    """
    reader = FieldsReader(parse_yaml(text, where=where), "", where=where)
    lock = {name: reader.text(name) for name in reader.names()}
    for name, image in lock.items():
        if "@sha256:" not in image:
            raise reader.error(name, image, "an image with its digest", "lock it after pushing")
    return lock
