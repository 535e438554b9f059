"""Builds the images and writes what each of them holds: ``make images``.

python -m containers.build                         all images
python -m containers.build data train-cpu          some
python -m containers.build --base python:3.11-slim on another base, e.g. where no registry is reached
python -m containers.build --build-base BASE       with another base for what is thrown away: pip's mirror
python -m containers.build --weights containers/weights  with pretrained weights for training
"""

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from containers.docker import build, docker, image_size, inspected, present
from containers.sbom import write_sbom
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.pipelines.images import ROLES, Images

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "containers" / "Dockerfile"
DISTRIBUTION = "image-classification-pipeline"
# What goes into the images, so that a file which Git does not know is no secret part of them.
_BUILT_FROM = (
    *(
        "LICENSE",
        "README.md",
        "compile.py",
        "pyproject.toml",
        "imgpipe",
        "components",
        "pipelines",
        "containers",
    ),
    ":!containers/images.lock",
)
WEIGHTS_LABEL = "imgpipe.weights"
# Where a project's address may be told in public; a folder of this machine or a URL with a password is none.
_PUBLIC = ("https://", "ssh://", "git@")


def default_base() -> str:
    """Returns the base that the Dockerfile pins."""
    line = next(
        one for one in DOCKERFILE.read_text(encoding="utf-8").splitlines() if one.startswith("ARG BASE=")
    )
    return line.removeprefix("ARG BASE=")


def build_flags(role: str, base: str, weights: str, build_base: str = "") -> list[str]:
    """Returns the flags of ``docker build`` for a role: arguments and labels.

    Args:
        role: Of the image.
        base: The base image, which the engine has.
        weights: Folder of weight files below the project's root; empty = none.
        build_base: The base of the stages that build; empty = the same.
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
    arguments = {"ROLE": role, "BASE": base, "BUILD_BASE": build_base, "WEIGHTS": weights}
    files = sorted(file.name for file in (ROOT / weights).glob("*.h5")) if weights else []
    return [
        *(f"--build-arg={name}={value}" for name, value in arguments.items() if value),
        *(f"--label=org.opencontainers.image.{name}={value}" for name, value in labels.items() if value),
        *([f"--label={WEIGHTS_LABEL}={' '.join(files)}"] if files and role.startswith("train") else []),
    ]


def _digest(base: str) -> str:
    """Returns the digest that a base is named by, or under which it was pulled; for a local one its id."""
    if "@" in base:
        return base.partition("@")[2]
    known = inspected(base)
    pulled = known.get("RepoDigests") or [f"@{known['Id']}"]
    return str(pulled[0]).partition("@")[2]


def revision() -> str:
    """Returns the commit that is built; empty outside of Git.

    With ``-dirty`` if files that images are built from differ from it or are unknown to it.
    """
    commit = _git("rev-parse", "HEAD")
    changed = commit and _git("status", "--porcelain", "--untracked-files=all", "--", *_BUILT_FROM)
    return f"{commit}-dirty" if changed else commit


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
    parser.add_argument(
        "--build-base",
        default="",
        metavar="BASE",
        help="For the stages that install and are thrown away, e.g. with the settings of a mirror for pip.",
    )
    parser.add_argument("--weights", default="", metavar="FOLDER", help="Of .h5 files, below containers/.")
    parser.add_argument("--sbom", type=Path, default=ROOT / "dist" / "sbom", metavar="FOLDER")
    options = parser.parse_args(words)
    try:
        unknown = sorted(set(options.roles) - set(ROLES))
        if unknown:
            raise InvalidArgumentError(f"there is no image {unknown[0]!r}", remedy=f"of: {', '.join(ROLES)}")
        weights = checked_weights(options.weights) if options.weights else ""
        for image in filter(None, (options.base, options.build_base)):
            # A builder may keep what it pulls to itself; labels and sizes are told of what the engine has.
            if not present(image):
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
