"""Pushes the images and locks them by digest: ``make images-push REGISTRY=...``.

python -m containers.push --registry REGISTRY/REPOSITORY

Tags every image as REGISTRY/REPOSITORY/imgpipe-ROLE:VERSION, pushes it, and writes containers/images.lock:
one line `imgpipe-ROLE: NAME@sha256:...` per image, for `python compile.py --images-lock`. The lock is written
after all images are pushed. Only images of the checked-out commit are pushed, all on the same base.
Run `docker login` first.
"""

import argparse
import sys
from pathlib import Path

from containers.build import revision
from containers.docker import docker, inspect_image
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError, UnavailableError
from imgpipe.components.common.plural import plural
from imgpipe.pipelines.images import ROLES, Images, read_images_lock

_LABEL = "org.opencontainers.image."
LOCK = Path(__file__).resolve().parent / "images.lock"


def push(registry: str, roles: list[str]) -> dict[str, str]:
    """Tags and pushes images, and returns the lock: for each name without registry, the name with digest.

    Args:
        registry: Registry and repository, without a trailing slash.
        roles: The roles of the images, which must be built.

    Raises:
        UnavailableError: if an image is missing, or the registry rejects it.
    """
    lock = {}
    for role in roles:
        image, name = Images().of_role(role), Images(registry).of_role(role)
        print(f"{name}: pushing", flush=True)
        docker("tag", image, name)
        docker("push", "--quiet", name)
        lock[f"imgpipe-{role}"] = _digest(name)
    return lock


def check_reviewed(roles: list[str], commit: str) -> None:
    """Rejects images that are not built from exactly a commit, or not all on the same base.

    Args:
        roles: The roles of the images, which must be built.
        commit: From ``containers.build.revision``.

    Raises:
        InvalidArgumentError: with the image, its commit and the checked-out commit.
        UnavailableError: if an image is missing.
    """
    if not commit or commit.endswith("-dirty"):
        raise InvalidArgumentError(
            "files that go into the images differ from the commit"
            if commit
            else "this is not a Git repository",
            remedy="commit the files and build again, or use --any-revision for a test",
        )
    bases = {}
    for role in roles:
        labels = inspect_image(Images().of_role(role))["Config"]["Labels"] or {}
        built = labels.get(f"{_LABEL}revision", "")
        if built != commit:
            raise InvalidArgumentError(
                f"{Images().of_role(role)} is built from {built or 'no commit'}, but {commit} is checked out",
                remedy="run make images, or use --any-revision for a test",
            )
        bases[role] = labels.get(f"{_LABEL}base.digest", "")
    if len(set(bases.values())) > 1:
        raise InvalidArgumentError(
            "the images are built on different bases: "
            + ", ".join(f"{role} on {base or 'an unknown base'}" for role, base in bases.items()),
            remedy="run make images, which builds all images on one base",
        )


def _digest(name: str) -> str:
    repository = name.rpartition(":")[0]
    for digest in inspect_image(name)["RepoDigests"]:
        if digest.partition("@")[0] == repository:
            return str(digest)
    raise UnavailableError(f"the engine has no digest of {name} after the push", remedy="push it again")


def main(argv: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        "containers.push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=f"One of: {', '.join(ROLES)}. Default: all.")
    parser.add_argument("--registry", required=True, metavar="REGISTRY/REPOSITORY")
    parser.add_argument("--lock", type=Path, default=LOCK, metavar="FILE")
    parser.add_argument(
        "--any-revision",
        action="store_true",
        help="Also push images of other commits and of uncommitted files.",
    )
    options = parser.parse_args(argv)
    try:
        registry = options.registry.rstrip("/")
        if not registry or "://" in registry or registry != registry.lower():
            raise InvalidArgumentError(
                f"--registry={options.registry!r} is not a valid registry and repository",
                remedy="write it in lower case and without https://, e.g. HOST/PROJECT/imgpipe",
            )
        if not options.any_revision:
            check_reviewed(options.roles or list(ROLES), revision())
        # Images that are not pushed now keep their entry.
        text = options.lock.read_text(encoding="utf-8") if options.roles and options.lock.is_file() else "{}"
        lock = {
            **read_images_lock(text, where=str(options.lock)),
            **push(registry, options.roles or list(ROLES)),
        }
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    options.lock.write_text("".join(f"{name}: {lock[name]}\n" for name in sorted(lock)), encoding="utf-8")
    print(
        f"{options.lock}: {plural(len(lock), 'image')}; "
        f"to use the lock, run: python compile.py --images-lock {options.lock}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
