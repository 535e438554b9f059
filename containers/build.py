"""Builds the images and writes what each of them holds: ``make images``.

python -m containers.build                         all images
python -m containers.build data train-cpu          some
python -m containers.build --base python:3.11-slim on another base, e.g. where no registry is reached
python -m containers.build --weights containers/weights  with pretrained weights for training
"""

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from components.common.errors import InvalidArgumentError, PipelineError
from containers.docker import build, image_size, inspected
from containers.sbom import write_sbom
from pipelines.images import ROLES, Images

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "containers" / "Dockerfile"
DISTRIBUTION = "image-classification-pipeline"
# Where a project's address may be told in public; a folder of this machine or a URL with a password is none.
_PUBLIC = ("https://", "ssh://", "git@")


def default_base() -> str:
    """Returns the base that the Dockerfile pins."""
    line = next(
        one for one in DOCKERFILE.read_text(encoding="utf-8").splitlines() if one.startswith("ARG BASE=")
    )
    return line.removeprefix("ARG BASE=")


def build_flags(role: str, base: str, weights: str) -> list[str]:
    """Returns the flags of ``docker build`` for a role: arguments and labels.

    Args:
        role: Of the image.
        base: The base image.
        weights: Folder of weight files below the project's root; empty = none.
    """
    labels = {
        "title": f"imgpipe-{role}",
        "version": version(DISTRIBUTION),
        "revision": revision(),
        "source": source(),
        "licenses": "Apache-2.0",
        "base.name": base.partition("@")[0],
        "base.digest": base.partition("@")[2] or str(inspected(base)["Id"]),
    }
    arguments = {"ROLE": role, "BASE": base, **({"WEIGHTS": weights} if weights else {})}
    return [
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label=org.opencontainers.image.{name}={value}" for name, value in labels.items() if value),
    ]


def revision() -> str:
    """Returns the commit that is built, with ``-dirty`` if files differ from it; empty outside of Git."""
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain", "--untracked-files=no") else commit


def source() -> str:
    """Returns where the project is kept, if that is a public address."""
    address = _git("remote", "get-url", "origin")
    secret = "@" in address.partition("://")[2]
    return address if address.startswith(_PUBLIC) and not secret else ""


def _git(*words: str) -> str:
    result = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def checked_weights(folder: str) -> str:
    """Returns the folder of weight files, relative to the project's root.

    Raises:
        InvalidArgumentError: if it is not a folder of the project that holds ``.h5`` files.
    """
    path = Path(folder).absolute()
    if not path.is_relative_to(ROOT / "containers") or not any(path.glob("*.h5")):
        raise InvalidArgumentError(
            f"--weights={folder!r} is no folder below containers/ that holds .h5 files",
            remedy="copy the files of ~/.keras/models to containers/weights: a build sees only the project",
        )
    return path.relative_to(ROOT).as_posix()


def main(words: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        "containers.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=f"Of: {', '.join(ROLES)}.")
    parser.add_argument("--base", default=default_base(), help="The base image. [default: %(default)s]")
    parser.add_argument("--weights", default="", metavar="FOLDER", help="Of .h5 files, below containers/.")
    parser.add_argument("--sbom", type=Path, default=ROOT / "dist" / "sbom", metavar="FOLDER")
    options = parser.parse_args(words)
    try:
        unknown = sorted(set(options.roles) - set(ROLES))
        if unknown:
            raise InvalidArgumentError(f"there is no image {unknown[0]!r}", remedy=f"of: {', '.join(ROLES)}")
        weights = checked_weights(options.weights) if options.weights else ""
        for role in options.roles or ROLES:
            _build(role, options.base, weights, options.sbom)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _build(role: str, base: str, weights: str, sboms: Path) -> None:
    image = Images().of_role(role)
    print(f"{image}: building", flush=True)
    started = time.monotonic()
    build(ROOT, DOCKERFILE, role, image, build_flags(role, base, weights))
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
