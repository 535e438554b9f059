"""This machine, each step in its own container: KFP's DockerRunner, restricted like a strict cluster.

A container has no network, a read-only root filesystem, no capabilities and a user other than root. Of this
machine's folders it sees only those of the run.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from imgpipe.components.common.errors import MissingInputError, UnavailableError
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE

_UNPRIVILEGED_ID = 65534
# A training run has this time to end its running step and to write a checkpoint before it is killed.
_SECONDS_TO_STOP = 600
# Time for this process to end, including the time to stop the container.
SECONDS_TO_END = _SECONDS_TO_STOP + 10
# Finds the containers of a run: `docker ps --filter label=imgpipe.job_dir=FOLDER`.
JOB_DIR_LABEL = "imgpipe.job_dir"
_INSTALL = "pip install 'image-classification-pipeline[docker]'"


@dataclass(frozen=True)
class ContainerSettings:
    """How the steps' containers run.

    Attributes:
        read_only: The folders of this machine that they may read, at the same path.
        writable: Those that they may write.
        network: ``none``, or a Docker network, for data in buckets.
        user: Numeric ids of the user and the group.
        job_dir: The run's folder; the containers are labeled with it.
    """

    read_only: Sequence[str]
    writable: Sequence[str]
    network: str = "none"
    user: tuple[int, int] = (_UNPRIVILEGED_ID, _UNPRIVILEGED_ID)
    job_dir: str = ""


def container_user() -> tuple[int, int]:
    """Returns the user and group that steps run as: the current user, but never root."""
    return (os.geteuid(), os.getegid()) if os.geteuid() else (_UNPRIVILEGED_ID, _UNPRIVILEGED_ID)


def check_engine(images: "set[str]") -> None:
    """Checks that a Docker engine responds and has the images.

    Raises:
        UnavailableError: if it does not respond, or its Python client is not installed.
        MissingInputError: naming the missing images.
    """
    client = _engine()
    import docker.errors

    missing = []
    try:
        for image in sorted(images):
            try:
                client.images.get(image)
            except docker.errors.ImageNotFound:
                missing.append(image)
    finally:
        client.close()
    if missing:
        raise MissingInputError(
            f"the Docker engine has no image {', '.join(missing)}",
            remedy="build them with `make images`, or use docker pull and docker tag",
        )


def make_writable_folders(settings: ContainerSettings, job_dir: Path) -> None:
    """Creates the folders that steps write to; if this process is root, the steps' user becomes their owner.

    An existing folder that is not empty keeps its owner, except for the run's own folder.
    """
    for folder in map(Path, settings.writable):
        folder.mkdir(parents=True, exist_ok=True)
        if folder == job_dir or not any(folder.iterdir()):
            create_for_user(folder, settings)


def create_for_user(folder: Path, settings: ContainerSettings) -> None:
    """Creates a folder that belongs to the steps' user."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, *settings.user)


def docker_runner(settings: ContainerSettings) -> Any:
    """Returns KFP's DockerRunner with these settings, and replaces the function that runs a container.

    KFP's own function removes a container when it ends and may then be too late to read its exit status: a
    step that fails fast counts as successful.
    """
    from docker.types import Mount
    from kfp import local
    from kfp.local import docker_task_handler

    docker_task_handler.run_docker_container = run_container
    mounts = [
        Mount(folder, folder, type="bind", read_only=read_only)
        for folders, read_only in ((settings.read_only, True), (settings.writable, False))
        for folder in folders
    ]
    return local.DockerRunner(
        network_mode=settings.network,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        user=":".join(map(str, settings.user)),
        # An init process forwards signals and reaps orphans.
        init=True,
        tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - private to the container
        mounts=mounts,
        labels={JOB_DIR_LABEL: settings.job_dir},
        environment={LOG_FORMAT_VARIABLE: JSON, **_bucket_settings(settings)},
    )


def _bucket_settings(settings: ContainerSettings) -> dict[str, str]:
    """Returns this machine's variables with the settings of buckets; none without a network."""
    return {
        name: value
        for name, value in os.environ.items()
        if settings.network != "none" and name.startswith(("AWS_", "GOOGLE_APPLICATION_CREDENTIALS"))
    }


def run_container(
    client: Any, image: str, command: list[str], volumes: Mapping[str, Any], **settings: Any
) -> int:
    """Runs a container, prints its output, waits for it to end, removes it, and returns its exit status.

    Replaces KFP's function with the same signature. SIGTERM to this process stops and removes the container.
    """
    output, container = _Lines(), None
    try:
        container = client.containers.create(
            image=image, command=_with_exec(command), volumes=volumes, detach=True, **settings
        )
        container.start()
        for chunk in container.logs(stream=True, follow=True):
            output.write(chunk)
        status = int(container.wait()["StatusCode"])
        # The stream can end early. The log is complete once the container has ended.
        output.write(container.logs()[output.received :])
        output.finish()
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            print("the container was killed: it exceeded its memory limit", flush=True)
        return status
    except SystemExit:
        if container is not None:
            container.stop(timeout=_SECONDS_TO_STOP)
            # The step may print more while it stops.
            output.write(container.logs()[output.received :])
            output.finish()
        raise
    finally:
        if container is not None:
            container.remove(force=True)


class _Lines:
    """Prints chunks of bytes in whole lines: KFP indents each ``print``."""

    def __init__(self) -> None:
        self.received = 0
        self._partial = b""

    def write(self, chunk: bytes) -> None:
        self.received += len(chunk)
        lines, newline, self._partial = (self._partial + chunk).rpartition(b"\n")
        if newline:
            print(lines.decode("utf-8", "replace"), flush=True)

    def finish(self) -> None:
        if self._partial:
            print(self._partial.decode("utf-8", "replace"), flush=True)
        self._partial = b""


def _with_exec(command: list[str]) -> list[str]:
    """Changes KFP's shell command to ``exec`` Python, so that signals reach Python."""
    return [
        argument.replace("_KFP_RUNTIME=true python3 -m", "_KFP_RUNTIME=true exec python3 -m", 1)
        for argument in command[:3]
    ] + command[3:]


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit in the block, because a container does not end with this process."""

    def stop(*_: Any) -> NoReturn:
        # A second signal would interrupt the cleanup.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _engine() -> Any:
    try:
        import docker
        import docker.errors
    except ImportError:
        raise UnavailableError("Docker's client for Python is not installed", remedy=_INSTALL) from None
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        program = shutil.which("docker") or "docker"
        raise UnavailableError(
            f"the Docker engine does not respond: {error}",
            remedy=f"start it (does `{program} info` work?), or omit --runner",
        ) from None
    return client
