"""The server in its container."""

import re
from pathlib import Path

import pytest

from containers.docker import SANDBOX_FLAGS, docker
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]

DOCS = Path(__file__).parents[2] / "docs" / "containers.md"


def test_the_server_is_healthy_by_the_health_check_of_the_docs(images, linear_model, tmp_path):
    linear_model(tmp_path / "1")
    # Readable by the container's user.
    tmp_path.chmod(0o755)
    [check] = re.findall("--health-cmd '(.*)'", DOCS.read_text())
    flags = [flag for flag in SANDBOX_FLAGS if flag != "--rm"]
    flags += ["--detach", f"--health-cmd={check}", "--health-interval=1s", f"--volume={tmp_path}:/models:ro"]
    serve = ("python3", "-m", "imgpipe.components.serve", "--model=/models")
    container = docker("run", *flags, images["serve-tools"], *serve).strip()

    def health():
        return docker("inspect", "--format={{.State.Health.Status}}", container).strip()

    def logs():
        return health(), docker("logs", container)

    try:
        wait_until(lambda: health() == "healthy", 120, pause=0.2, says=logs)
    finally:
        docker("rm", "--force", container)
