"""The Docker engine, through its command line."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import UnavailableError

# What in BuildKit is a plug-in of its own that not every engine has; the Dockerfile needs neither.
_CLASSIC_BUILDER = {"DOCKER_BUILDKIT": "0"}


def engine_answers() -> bool:
    """Whether there is an engine."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


def docker(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs ``docker`` and returns what it prints on stdout.

    Raises:
        UnavailableError: if it fails, with the end of what it says.
    """
    result = subprocess.run(
        ["docker", *words],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=environment,
    )
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise UnavailableError(
            f"docker {' '.join(words[:2])} ended with status {result.returncode}: {said}",
            remedy="see what it says; does `docker info` work?",
        )
    return result.stdout


def image_size(image: str) -> int:
    """Returns an image's size in bytes, its base's included."""
    return int(inspected(image)["Size"])


def inspected(image: str) -> dict[str, Any]:
    """Returns what the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return found[0]


def present(image: str) -> bool:
    """Whether the engine has an image."""
    return bool(docker("image", "ls", "--quiet", image).strip())


def build(folder: Path, dockerfile: Path, target: str, tag: str, flags: Sequence[str]) -> None:
    """Builds an image; what the builder says is shown only if it fails.

    Raises:
        UnavailableError: if it fails.
    """
    environment = {**os.environ} if _has_buildx() else {**os.environ, **_CLASSIC_BUILDER}
    docker(
        *("build", "--file", str(dockerfile), "--target", target, "--tag", tag, *flags, str(folder)),
        environment=environment,
    )


def _has_buildx() -> bool:
    return subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode == 0
