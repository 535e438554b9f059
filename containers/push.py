"""Pushes the images and locks them by digest: ``make images-push REGISTRY=...``.

python -m containers.push --registry REGISTRY/REPOSITORY

Tags every image as REGISTRY/REPOSITORY/imgpipe-ROLE:VERSION, pushes it, and writes containers/images.lock, a
line `imgpipe-ROLE: NAME@sha256:...` each, which `python compile.py --images-lock` takes. The lock is written
once all are pushed. Whoever may push has logged in (`docker login`) before.
"""

import argparse
import sys
from pathlib import Path

from components.common.errors import InvalidArgumentError, PipelineError, UnavailableError
from containers.docker import docker, inspected
from pipelines.images import ROLES, Images, read_images_lock

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
    options = parser.parse_args(words)
    try:
        registry = options.registry.rstrip("/")
        if not registry or "://" in registry or registry != registry.lower():
            raise InvalidArgumentError(
                f"--registry={options.registry!r} is no name of a registry and repository",
                remedy="write it in small letters and without https://, e.g. HOST/PROJECT/imgpipe",
            )
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
