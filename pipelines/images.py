"""The container image of each step."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from imgpipe import __version__
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.common.image_name import HOST, PART

_REGISTRY = re.compile(rf"(?:{HOST}|{PART})(?:/{PART})*")
# Each role has its own packages: only train-* and serve-tools contain TensorFlow.
ROLES = (
    *("data", "launcher", "serve-tools", "train-cpu", "train-gpu", "train-tpu"),
    *("train-cpu-vertex", "train-gpu-vertex", "train-tpu-vertex"),
)
_ROLE_OF_STEP = {
    "data_version": "data",
    "form_settings": "data",
    "convert": "data",
    "validate": "data",
    "serving_model": "serve-tools",
    "train": "train-cpu",
    "evaluate": "serve-tools",
    "export": "serve-tools",
    "gate": "data",
    # With a local folder, it loads the model in a subprocess; other targets load the model themselves.
    "deploy": "serve-tools",
    "batch_predict": "serve-tools",
    "notify": "data",
}
# Each of these can run the components of those before it that share a step with its own.
_MORE_PACKAGES = ("data", "launcher", "serve-tools")
# Steps that only start and monitor a remote job on a target.
_LAUNCHED = {
    ("train", "vertex"): "launcher",
    ("serving_model", "vertex"): "launcher",
    ("serving_model", "kubeflow"): "launcher",
    ("deploy", "vertex"): "launcher",
    ("deploy", "kubeflow"): "launcher",
}


@dataclass(frozen=True)
class Images:
    """Image names of imgpipe.

    Attributes:
        registry: Their registry, e.g. a repository of Artifact Registry; empty = no prefix.
        lock: Full names with digest by short name (``imgpipe-data``); overrides ``registry``.

    Raises:
        InvalidArgumentError: if ``registry`` is not a valid prefix of an image name.
    """

    registry: str = ""
    lock: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the registry's name."""
        name = self.registry.removesuffix("/")
        if name and not _REGISTRY.fullmatch(name):
            raise InvalidArgumentError(
                f"--image-registry={self.registry!r} is not a valid registry",
                remedy="write HOST/REPOSITORY without https:// and without a tag, the repository in lower "
                "case, e.g. europe-docker.pkg.dev/my-project/imgpipe",
            )

    def of_role(self, role: str) -> str:
        """Returns the image of a role, e.g. ``train-gpu``.

        Raises:
            InvalidArgumentError: if the lock does not have this image.
        """
        name = f"imgpipe-{role}"
        if self.lock:
            if name not in self.lock:
                raise InvalidArgumentError(
                    f"the images lock has no entry {name}", remedy="build and push all images, then lock them"
                )
            return self.lock[name]
        prefix = f"{self.registry.rstrip('/')}/" if self.registry else ""
        # KFP's cache identifies code by the image name, so a tag must never move.
        return f"{prefix}{name}:{release_name()}"

    def of_step(self, *components: str, target: str = "") -> str:
        """Returns the image of a step with one or more components on a target."""
        roles = {_LAUNCHED.get((name, target), _ROLE_OF_STEP[name]) for name in components}
        return self.of_role(roles.pop() if len(roles) == 1 else max(roles, key=_MORE_PACKAGES.index))

    def of_training(self, kind: str, target: str = "") -> str:
        """Returns the training image for a machine with ``cpu``, ``gpu`` or ``tpu``.

        Args:
            kind: The kind.
            target: ``vertex`` for the image of jobs on Vertex AI, whose user is root.
        """
        return self.of_role(f"train-{kind}-vertex" if target == "vertex" else f"train-{kind}")


def release_name() -> str:
    """Returns our version as a tag of images and as a part of names in Kubernetes.

    A local version such as ``1.2.0+g123`` has a ``+``, which neither of them may have: it is ``1.2.0-g123``.
    """
    return re.sub("[^a-z0-9.]+", "-", __version__.lower())


def locked_role(role: str) -> str:
    """Returns the role whose lock of packages an image has."""
    return role.removesuffix("-vertex")


def read_images_lock(text: str, *, where: str) -> dict[str, str]:
    """Reads a lock with one line per image, ``imgpipe-data: registry/repository/imgpipe-data@sha256:...``.

    Raises:
        InvalidArgumentError: if an image has no digest.
    """
    reader = FieldsReader(parse_yaml(text, where=where), "", where=where)
    lock = {name: reader.text(name) for name in reader.fields}
    for name, image in lock.items():
        if "@sha256:" not in image:
            raise reader.error(name, image, "an image with its digest", "lock it after pushing")
    return lock
