"""This machine, each step a container of its own: KFP's DockerRunner, held to what a strict cluster allows.

A container has no network, a root filesystem that cannot be written to, no capabilities and a user that is
not root; it sees the folders of the run and nothing else of this machine.
"""

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from imgpipe.components.common.errors import MissingInputError, UnavailableError
from imgpipe.pipelines.container_mounts import ContainerPlaces

NOBODY = 65534
# Time that a step has to write its checkpoint, before it is killed.
_SECONDS_TO_STOP = 20
# Whoever waits for us to end waits longer than that.
SECONDS_TO_END = _SECONDS_TO_STOP + 10
# By it a run's containers are found: `docker ps --filter label=imgpipe.job_dir=FOLDER`.
JOB_DIR_LABEL = "imgpipe.job_dir"
_INSTALL = "pip install 'image-classification-pipeline[docker]'"


@dataclass(frozen=True)
class ContainerSettings:
    """How the steps' containers are run.

    Attributes:
        places: What they see of this machine.
        network: ``none``, or a network of the engine for data in Cloud Storage.
        user: Number of the user and the group.
        job_dir: Of the run; the containers are labelled with it.
    """

    places: ContainerPlaces
    network: str = "none"
    user: tuple[int, int] = (NOBODY, NOBODY)
    job_dir: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ContainerSettings":
        """Returns what ``dataclasses.asdict`` made of the settings."""
        places = ContainerPlaces(*(tuple(values["places"][name]) for name in ("read", "written")))
        return cls(places, values["network"], tuple(values["user"]), values["job_dir"])


def container_user() -> tuple[int, int]:
    """Returns the user and group that steps run as: ours, so that their output is ours; for root, nobody."""
    return (os.geteuid(), os.getegid()) if os.geteuid() else (NOBODY, NOBODY)


def check_engine(images: "set[str]") -> None:
    """Makes sure that an engine answers and has the images.

    Raises:
        UnavailableError: if it does not answer, or its client is not installed.
        MissingInputError: naming the images that are not there.
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
            remedy="make images, or docker pull and docker tag them",
        )


def make_places(settings: ContainerSettings, job_dir: Path) -> None:
    """Makes the folders that steps write to; where we are root and the steps are not, they become theirs.

    A folder that was there and holds something stays as it is, except for the run's own.
    """
    for place in map(Path, settings.places.written):
        place.mkdir(parents=True, exist_ok=True)
        if place == job_dir or not any(place.iterdir()):
            give_to_user(place, settings)


def give_to_user(folder: Path, settings: ContainerSettings) -> None:
    """Makes a folder of the run the steps' own, where we are root and they are not."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, *settings.user)


def docker_runner(settings: ContainerSettings) -> Any:
    """Returns KFP's DockerRunner with these settings, and puts our way to run a container in its place.

    KFP's own removes a container when it ends and may then ask in vain how it ended: a step that failed fast
    counts as one that went well.
    """
    from docker.types import Mount
    from kfp import local
    from kfp.local import docker_task_handler

    docker_task_handler.run_docker_container = run_container
    mounts = [
        Mount(folder, folder, type="bind", read_only=read_only)
        for folders, read_only in ((settings.places.read, True), (settings.places.written, False))
        for folder in folders
    ]
    return local.DockerRunner(
        network_mode=settings.network,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        user=":".join(map(str, settings.user)),
        # A process without children of its own at number 1: it passes signals on and buries orphans.
        init=True,
        tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - in the container, where nobody else is
        mounts=mounts,
        labels={JOB_DIR_LABEL: settings.job_dir},
    )


def run_container(
    client: Any, image: str, command: list[str], volumes: Mapping[str, Any], **settings: Any
) -> int:
    """Runs a container to its end, prints what it prints, and removes it; returns its exit status.

    Stands in the place of KFP's function of the same arguments. The container is stopped and removed too if
    we are told to stop.
    """
    output, container = _Lines(), None
    try:
        container = client.containers.create(
            image=image, command=_signalled(command), volumes=volumes, detach=True, **settings
        )
        container.start()
        for piece in container.logs(stream=True, follow=True):
            output.show(piece)
        status = int(container.wait()["StatusCode"])
        # The stream can end before the last of it is in the log, which is whole once the container has ended.
        output.show(container.logs()[output.received :])
        output.end()
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            print("the container was killed: it took more memory than it may", flush=True)
        return status
    except SystemExit:
        if container is not None:
            container.stop(timeout=_SECONDS_TO_STOP)
            # What the step said to being stopped.
            output.show(container.logs()[output.received :])
            output.end()
        raise
    finally:
        if container is not None:
            container.remove(force=True)


class _Lines:
    """Prints what comes in pieces, in whole lines: KFP indents whatever is printed at once."""

    def __init__(self) -> None:
        self.received = 0
        self._begun = b""

    def show(self, piece: bytes) -> None:
        self.received += len(piece)
        whole, newline, self._begun = (self._begun + piece).rpartition(b"\n")
        if newline:
            print(whole.decode("utf-8", "replace"), flush=True)

    def end(self) -> None:
        if self._begun:
            print(self._begun.decode("utf-8", "replace"), flush=True)
        self._begun = b""


def _signalled(command: list[str]) -> list[str]:
    """Lets the shell of KFP's command become Python, so that a signal arrives there."""
    return [
        word.replace("_KFP_RUNTIME=true python3 -m", "_KFP_RUNTIME=true exec python3 -m", 1)
        for word in command[:3]
    ] + command[3:]


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Makes SIGTERM end the block through its ``finally``: a container does not end with us by itself."""

    def stop(*_: Any) -> NoReturn:
        # A second signal would interrupt the cleaning up.
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
        where = shutil.which("docker") or "docker"
        raise UnavailableError(
            f"no Docker engine answers: {error}",
            remedy=f"start it (does `{where} info` work?), or leave --runner out",
        ) from None
    return client
