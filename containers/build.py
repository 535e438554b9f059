"""Builds the images and their bills of materials: ``make images``.

python -m containers.build                         all images
python -m containers.build data train-cpu          some images
python -m containers.build --base python:3.11-slim on another base, e.g. where no registry can be reached
python -m containers.build --build-base BASE       with another base for the build stages, for a pip mirror
python -m containers.build --weights containers/weights  with pretrained weights for training
"""

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from containers.docker import build, docker, image_size, inspect_image, is_present
from containers.sbom import write_sbom
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.pipelines.images import ROLES, Images, locked_role

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "containers" / "Dockerfile"
DISTRIBUTION = "image-classification-pipeline"
# The files that go into the images: an image is labeled dirty if one of them differs from the commit.
_BUILT_FROM = (
    *("LICENSE", "README.md", "compile.py", "pyproject.toml"),
    *("imgpipe", "components", "pipelines", "containers"),
    ":!containers/images.lock",
)
WEIGHTS_LABEL = "imgpipe.weights"
# Limits of the images' sizes in megabytes, without the base.
MAX_MEGABYTES = {"data": 250, "launcher": 300, "train-cpu": 1600, "serve-tools": 1600}
# Addresses of a repository that may be published: no local folders, no URLs with a password.
_PUBLIC = ("https://", "ssh://", "git@")


def default_base() -> str:
    """Returns the base image that the Dockerfile pins."""
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("ARG BASE=") for line in lines if line.startswith("ARG BASE="))


def build_flags(role: str, base: str, weights: str, build_base: str = "") -> list[str]:
    """Returns the flags of ``docker build`` for a role: build arguments and labels.

    Args:
        role: The image's role.
        base: The base image, which the engine must have.
        weights: Folder of weight files, relative to the project's root; empty = no weights.
        build_base: The base image of the build stages; empty = ``base``.
    """
    labels = {
        "title": f"imgpipe-{role}",
        "version": version(DISTRIBUTION),
        "revision": revision(),
        "source": source(),
        "licenses": "Apache-2.0",
        "base.name": base.partition("@")[0],
        "base.digest": _digest(base),
    }
    arguments = {"ROLE": locked_role(role), "BASE": base, "BUILD_BASE": build_base, "WEIGHTS": weights}
    files = sorted(file.name for file in (ROOT / weights).glob("*.h5")) if weights else []
    return [
        *(f"--build-arg={name}={value}" for name, value in arguments.items() if value),
        *(f"--label=org.opencontainers.image.{name}={value}" for name, value in labels.items() if value),
        *([f"--label={WEIGHTS_LABEL}={' '.join(files)}"] if files and role.startswith("train") else []),
    ]


def _digest(base: str) -> str:
    """Returns the digest in a base image's name, or with which it was pulled, or the id of a local image."""
    if "@" in base:
        return base.partition("@")[2]
    image = inspect_image(base)
    digests = image.get("RepoDigests") or [f"@{image['Id']}"]
    return str(digests[0]).partition("@")[2]


def revision() -> str:
    """Returns the checked-out commit; empty outside a Git repository.

    It ends with ``-dirty`` if files that go into the images are changed or untracked.
    """
    commit = _git("rev-parse", "HEAD")
    changed = commit and _git("status", "--porcelain", "--untracked-files=all", "--", *_BUILT_FROM)
    return f"{commit}-dirty" if changed else commit


def source() -> str:
    """Returns the repository's address, if it is public."""
    address = _git("remote", "get-url", "origin")
    secret = "@" in address.partition("://")[2]
    return address if address.startswith(_PUBLIC) and not secret else ""


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def checked_weights(folder: str) -> str:
    """Returns the folder of weight files as a path relative to the project's root.

    Raises:
        InvalidArgumentError: if it is not a folder in ``containers/`` with ``.h5`` files.
    """
    path = Path(folder).absolute()
    if not path.is_relative_to(ROOT / "containers") or not any(path.glob("*.h5")):
        raise InvalidArgumentError(
            f"--weights={folder!r} is not a folder in containers/ with .h5 files",
            remedy="copy the files from ~/.keras/models to containers/weights, where a build finds them",
        )
    return path.relative_to(ROOT).as_posix()


def main(argv: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        "containers.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=f"One of: {', '.join(ROLES)}. Default: all.")
    parser.add_argument("--base", default=default_base(), help="The base image. [default: %(default)s]")
    parser.add_argument(
        "--build-base",
        default="",
        metavar="BASE",
        help="Base image of the build stages, e.g. one that is configured for a pip mirror.",
    )
    parser.add_argument(
        "--weights", default="", metavar="FOLDER", help="Folder of .h5 files, in containers/."
    )
    parser.add_argument("--sbom", type=Path, default=ROOT / "dist" / "sbom", metavar="FOLDER")
    options = parser.parse_args(argv)
    try:
        unknown = sorted(set(options.roles) - set(ROLES))
        if unknown:
            raise InvalidArgumentError(
                f"unknown image {unknown[0]!r}", remedy=f"use some of: {', '.join(ROLES)}"
            )
        weights = checked_weights(options.weights) if options.weights else ""
        for image in filter(None, (options.base, options.build_base)):
            # Labels and sizes are read from the engine, which may not have an image that the builder pulled.
            if not is_present(image):
                print(f"{image}: pulling", flush=True)
                docker("pull", "--quiet", image)
        for role in options.roles or ROLES:
            flags = build_flags(role, options.base, weights, options.build_base)
            _build(role, options.base, flags, options.sbom)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _build(role: str, base: str, flags: list[str], sboms: Path) -> None:
    image = Images().of_role(role)
    print(f"{image}: building", flush=True)
    started = time.monotonic()
    build(ROOT, DOCKERFILE, role, image, flags)
    sbom = sboms / f"imgpipe-{role}.cdx.json"
    packages = write_sbom(image, sbom)
    seconds = time.monotonic() - started
    megabytes = (image_size(image) - image_size(base)) / 1e6
    print(
        f"{image}: {megabytes:.0f} MB over its base, {packages} packages in {sbom}, {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
