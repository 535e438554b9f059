"""Fixtures of the tests on Kubeflow, and of first steps."""

import functools

import pytest

from tests.command_line import run_on_kubeflow
from tests.servers.kubeflow import start_kubeflow_server, use_kubeconfig


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Kubeflow Pipelines and the cluster of its pods, with short waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imgpipe.pipelines.targets.kubeflow_logs._POLL_SECONDS", 0.1)
    monkeypatch.setattr("imgpipe.components.platforms.submission.SETTLE_SECONDS", 0)
    monkeypatch.setattr("imgpipe.components.platforms.polling.RETRY_SECONDS", 1)
    with start_kubeflow_server(tmp_path / "cluster") as started:
        use_kubeconfig(monkeypatch, tmp_path, started)
        yield started


@pytest.fixture
def run(server):
    """``run("describe", "x")`` runs a command in this process against the server."""
    return functools.partial(run_on_kubeflow, server.address)


@pytest.fixture
def photos(tmp_path):
    """A folder of two labels, with an empty file each."""
    for label in ("daisy", "tulips"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "1.jpg").write_bytes(b"")
    return tmp_path / "photos"
