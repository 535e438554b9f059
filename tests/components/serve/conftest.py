"""Starts the server in its own process, on a free local port."""

import base64
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest

from imgpipe.components.common.log import json_environment, parse_event


@dataclass
class Running:
    process: subprocess.Popen
    address: str
    name: str
    lines: list[str] = field(default_factory=list)

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    @property
    def url(self):
        return f"{self.address}/v1/models/{self.name}"

    def predict(self, body, **options):
        return httpx.post(f"{self.url}:predict", json=body, timeout=30, **options)

    def memory(self):
        """Resident memory of the server in bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


def start(*flags):
    process = subprocess.Popen(
        [sys.executable, "-m", "imgpipe.components.serve", "--port=0", *flags],
        stdout=subprocess.PIPE,
        text=True,
        env=json_environment(),
    )
    lines = []
    serving = None
    for line in process.stdout:
        lines.append(line)
        event = parse_event(line)
        if event and event["event"] == "serving":
            serving = event
            break
    assert serving is not None, "".join(lines)
    running = Running(process, f"http://127.0.0.1:{serving['port']}", serving["model"], lines)
    threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
    return running


def stop(running):
    running.process.terminate()
    assert running.process.wait(20) == 0


@pytest.fixture
def started():
    """``started("--model=...")`` starts a server, which stops after the test."""
    servers = []

    def begin(*flags):
        servers.append(start(*flags))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            stop(server)


@pytest.fixture(scope="module")
def server(linear_model, tmp_path_factory):
    """A server of a small model, with small limits."""
    folder = linear_model(tmp_path_factory.mktemp("served") / "colours", ("dark", "größer", "bright"))
    running = start(
        f"--model={folder}",
        "--max_request_bytes=2000000",
        "--request_seconds=1",
        "--max_image_pixels=1000000",
        "--max_images_per_request=40",
        "--max_batch_size=8",
    )
    running.folder = folder
    yield running
    stop(running)


@pytest.fixture(scope="session")
def photo(encode):
    return encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3)), "JPEG")


@pytest.fixture(scope="session")
def row():
    def make(image, key="k"):
        return {"image_bytes": {"b64": base64.b64encode(image).decode()}, "key": key}

    return make
