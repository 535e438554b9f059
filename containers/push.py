"""Pushes the images and locks them by digest: ``make images-push REGISTRY=...``.

python -m containers.push --registry REGISTRY/REPOSITORY

Tags every image as REGISTRY/REPOSITORY/imgpipe-ROLE:VERSION, pushes it, and writes containers/images.lock, a
line `imgpipe-ROLE: NAME@sha256:...` each, which `python compile.py --images-lock` takes. The lock is written
once all are pushed. Only images of the commit that is checked out are pushed, all on one base.
Whoever may push has logged in (`docker login`) before.
"""

import argparse
import sys
from pathlib import Path

from containers.build import revision
from containers.docker import docker, inspected
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError, UnavailableError
from imgpipe.pipelines.images import ROLES, Images, read_images_lock

_LABEL = "org.opencontainers.image."
LOCK = Path(__file__).resolve().parent / "images.lock"


def push(registry: str, roles: list[str]) -> dict[str, str]:
    """Tags and pushes images, and returns the lock: names with digest by names without registry.

    Args:
        registry: With the repository, without a slash at its end.
        roles: Of the images, which are built.

    Raises:
        UnavailableError: if an image is not there, or the registry does not take it.
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
    """Refuses images that are not built from a commit as it stands, or not all on the same base.

    Args:
        roles: Of the images, which are built.
        commit: As ``containers.build.revision`` tells it.

    Raises:
        InvalidArgumentError: naming the image, what it is built from and what is checked out.
        UnavailableError: if an image is not there.
    """
    if not commit or commit.endswith("-dirty"):
        raise InvalidArgumentError(
            "files that images are built from differ from the commit"
            if commit
            else "this is no checkout of Git",
            remedy="commit them and build again, or give --any-revision to push for a trial",
        )
    bases = {}
    for role in roles:
        labels = inspected(Images().of_role(role))["Config"]["Labels"] or {}
        built = labels.get(f"{_LABEL}revision", "")
        if built != commit:
            raise InvalidArgumentError(
                f"{Images().of_role(role)} is built from {built or 'no commit'}, and {commit} is checked out",
                remedy="make images, or give --any-revision to push for a trial",
            )
        bases[role] = labels.get(f"{_LABEL}base.digest", "")
    if len(set(bases.values())) > 1:
        raise InvalidArgumentError(
            "the images are built on different bases: "
            + ", ".join(f"{role} on {base or 'an unknown one'}" for role, base in bases.items()),
            remedy="build all on one base: make images",
        )


def _digest(name: str) -> str:
    """Returns an image's name with the digest under which its registry keeps it."""
    repository = name.rpartition(":")[0]
    for digest in inspected(name)["RepoDigests"]:
        if digest.partition("@")[0] == repository:
            return str(digest)
    raise UnavailableError(f"the engine knows no digest of {name} after pushing it", remedy="push it again")


def main(words: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        "containers.push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=f"Of: {', '.join(ROLES)}. By default all.")
    parser.add_argument("--registry", required=True, metavar="REGISTRY/REPOSITORY")
    parser.add_argument("--lock", type=Path, default=LOCK, metavar="FILE")
    parser.add_argument(
        "--any-revision", action="store_true", help="Push images of other commits or changed files too."
    )
    options = parser.parse_args(words)
    try:
        registry = options.registry.rstrip("/")
        if not registry or "://" in registry or registry != registry.lower():
            raise InvalidArgumentError(
                f"--registry={options.registry!r} is no name of a registry and repository",
                remedy="write it in small letters and without https://, e.g. HOST/PROJECT/imgpipe",
            )
        if not options.any_revision:
            check_reviewed(options.roles or list(ROLES), revision())
        # What is not pushed now stays as it was locked.
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
        f"{options.lock}: {len(lock)} images; "
        f"compile with them: python compile.py --images-lock {options.lock}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
