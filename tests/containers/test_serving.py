"""The server in its container, and its health check."""

import json

import pytest

from containers.docker import SANDBOX_FLAGS, docker
from imgpipe.components.common.errors import UnavailableError
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]

HEALTH = ("python3", "-m", "imgpipe.components.serve.health")
# Suspends the server: it accepts connections and does not respond.
SUSPEND_SERVER = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    command = (folder / "cmdline").read_bytes().split(b"\\0")
    if command[0].endswith(b"python3") and b"imgpipe.components.serve" in command:
        os.kill(int(folder.name), signal.SIGSTOP)
"""


@pytest.fixture
def started(images):
    """Starts containers of the serving image, which are removed after the test; returns their ids."""
    containers = []

    def start(*command, volume):
        # The health check is the image's, with a shorter interval.
        flags = [flag for flag in SANDBOX_FLAGS if flag != "--rm"]
        flags += ["--detach", "--health-interval=1s", f"--volume={volume}:/models:ro"]
        containers.append(docker("run", *flags, images["serve-tools"], *command).strip())
        return containers[-1]

    yield start
    for container in containers:
        docker("rm", "--force", container)


def health_of(container):
    return json.loads(docker("inspect", "--format={{json .State.Health}}", container))


def wait_until_healthy(container):
    wait_until(
        lambda: health_of(container)["Status"] == "healthy",
        120,
        pause=0.2,
        says=lambda: (health_of(container), docker("logs", container)),
    )


def test_a_server_is_healthy_once_it_responds_and_unhealthy_once_it_hangs(started, linear_model, tmp_path):
    linear_model(tmp_path / "1")
    # Readable by the container's user.
    tmp_path.chmod(0o755)
    serve = ("python3", "-m", "imgpipe.components.serve", "--model=/models")
    container = started(*serve, volume=tmp_path)
    wait_until_healthy(container)
    assert '"event": "serving"' in docker("logs", container)
    assert docker("exec", container, *HEALTH) == ""
    docker("exec", container, "python3", "-c", SUSPEND_SERVER)
    with pytest.raises(UnavailableError, match="the server does not respond: timed out"):
        docker("exec", container, *HEALTH)


def test_a_container_that_runs_a_step_is_healthy(started, tmp_path):
    container = started("sleep", "120", volume=tmp_path)
    wait_until_healthy(container)
