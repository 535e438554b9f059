"""Runs Docker's command line."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import UnavailableError

# BuildKit needs the buildx plug-in, which not every engine has. The Dockerfile works with both builders.
_CLASSIC_BUILDER = {"DOCKER_BUILDKIT": "0"}
# Flags of `docker run` for a container with the restrictions of a strict cluster.
SANDBOX_FLAGS = (
    *("--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--tmpfs=/tmp:mode=1777", "--init"),
)


def engine_answers() -> bool:
    """Whether a Docker engine is running."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> bytes:
    """Runs a command and returns its stdout.

    Raises:
        UnavailableError: if it fails, with the end of its output.
    """
    result = subprocess.run(command, capture_output=True, check=False, env=environment)
    if result.returncode:
        output = (result.stderr.strip() or result.stdout.strip()).decode(errors="replace")[-2000:]
        raise UnavailableError(
            f"{' '.join(command[:3])} failed with exit status {result.returncode}: {output}",
            remedy="check the message, and that `docker info` works",
        )
    return result.stdout


def docker(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs ``docker`` and returns its stdout; errors as for ``run``."""
    return run(["docker", *arguments], environment).decode(errors="replace")


def image_size(image: str) -> int:
    """Returns an image's size in bytes, including its base."""
    return int(inspect_image(image)["Size"])


def inspect_image(image: str) -> dict[str, Any]:
    """Returns the output of ``docker image inspect`` for an image."""
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return found[0]


def is_present(image: str) -> bool:
    """Whether the engine has an image."""
    return bool(docker("image", "ls", "--quiet", image).strip())


def build(folder: Path, dockerfile: Path, target: str, tag: str, flags: Sequence[str]) -> None:
    """Builds an image; the builder's output is shown only if it fails.

    Raises:
        UnavailableError: if it fails.
    """
    buildx = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False)
    environment = {**os.environ, **(_CLASSIC_BUILDER if buildx.returncode else {})}
    docker(
        *("build", "--file", str(dockerfile), "--target", target, "--tag", tag, *flags, str(folder)),
        environment=environment,
    )
