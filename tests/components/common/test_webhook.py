"""The webhook is called with the end of a run, and cannot fail it."""

import json
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from imgpipe.components.common import webhook
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.common.step import run_components
from tests.command_line import run_python
from tests.servers.http_server import Handler, serve, serve_json
from tests.servers.kubeflow import use_kubeconfig


@pytest.fixture
def server(monkeypatch):
    """The list of received requests; ``statuses`` are the next responses."""
    received, statuses = [], []

    def respond(method, path, query, body):
        received.append((method, path, json.loads(body)))
        return (statuses.pop(0) if statuses else 200), "ok"

    monkeypatch.setattr(webhook, "_PAUSES_SECONDS", (0.01, 0.01))
    with serve_json(respond) as address:
        monkeypatch.setenv("IMGPIPE_WEBHOOK_URL", f"{address}/hooks/token-1")
        monkeypatch.setenv("IMGPIPE_RUN_ID", "run-1")
        yield received, statuses


def test_a_server_that_is_overloaded_is_tried_again(server):
    server[1].extend([503, 429])
    webhook.report_end(webhook.SUCCEEDED, "deploy")
    assert [content["state"] for _, _, content in server[0]] == ["SUCCEEDED"] * 3


@pytest.mark.parametrize(("statuses", "requests"), [([404], 1), ([500, 500, 500], 3)])
def test_a_webhook_that_fails_is_a_warning_without_its_address(server, capsys, statuses, requests):
    server[1].extend(statuses)
    webhook.report_end(webhook.FAILED, "train", problem="the disk is full")
    out = capsys.readouterr().out
    assert len(server[0]) == requests
    assert f"the webhook could not be called: status {statuses[-1]}" in out
    assert "token-1" not in out


def test_a_server_that_does_not_exist_does_not_fail_the_step(monkeypatch, capsys):
    monkeypatch.setattr(webhook, "_PAUSES_SECONDS", ())
    monkeypatch.setenv("IMGPIPE_WEBHOOK_URL", "http://127.0.0.1:9/")
    webhook.report_end(webhook.SUCCEEDED, "deploy")
    assert "the webhook could not be called: URLError" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["hooks.example.com/x", "file:///etc/passwd", "https:///x"])
def test_an_address_that_is_no_url_is_rejected_without_showing_it(monkeypatch, url):
    monkeypatch.setenv("IMGPIPE_WEBHOOK_URL", url)
    with pytest.raises(InvalidArgumentError, match="not a URL") as error:
        webhook.check_webhook()
    assert url not in str(error.value)


@pytest.mark.parametrize(("step", "ends"), [("publish", True), ("batch_predict", True), ("train", False)])
def test_the_last_step_reports_the_runs_end(server, component_module, step, ends):
    module = component_module(measure=lambda: None)
    run_components(step, [(module, "measure")], {})
    assert [content["state"] for _, _, content in server[0]] == (["SUCCEEDED"] if ends else [])


def test_a_failed_component_is_reported_with_the_step_that_kubeflow_shows(server, component_module):
    def fail():
        raise InvalidDataError("the image is damaged", remedy="replace it")

    module = component_module(measure=lambda: None, fail=fail)
    with pytest.raises(SystemExit):
        run_components("publish", [(module, "measure"), (module, "fail")], {})
    [(method, path, content)] = server[0]
    assert (method, path) == ("POST", "/hooks/token-1")
    assert content == {
        "text": "imgpipe run run-1 failed in publish: the image is damaged",
        "state": "FAILED",
        "run_id": "run-1",
        "step": "publish",
        "problem": "the image is damaged",
        "remedy": "replace it",
    }


DAY = 24 * 3600
POD = {"metadata": {"labels": {"workflows.argoproj.io/workflow": "run-1"}}, "spec": {"containers": []}}


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """``cluster(workflow)`` makes it the Workflow of this process's pod; None = it was deleted."""
    with ExitStack() as servers:

        def start(workflow):
            def respond(_method, path, _query, _body):
                found = POD if "/pods/" in path else workflow
                return (200, found) if found is not None else (404, {"message": "not found"})

            server = SimpleNamespace(address=servers.enter_context(serve_json(respond)))
            use_kubeconfig(monkeypatch, tmp_path, server)
            monkeypatch.setenv("KFP_POD_NAME", "step-pod")

        yield start


def workflow_of(*, started=0, **spec):
    """Returns a Workflow that started some seconds ago."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=started)
    return {"metadata": {}, "spec": spec, "status": {"startedAt": start.isoformat()}}


# A process of its own, because the step ends it.
TERMINATED_STEP = """
import signal, sys, types
from imgpipe.components.common.step import run_component

names = [f"imgpipe.components.sample{name}" for name in ("", ".sample", ".component")]
sys.modules |= {name: types.ModuleType(name) for name in names}
sys.modules[names[-1]].train = lambda: signal.raise_signal(signal.SIGTERM)
run_component(names[-1], "train", {})
"""


@pytest.mark.parametrize(
    ("workflow", "state", "text"),
    [
        (workflow_of(activeDeadlineSeconds=0), "CANCELLED", "imgpipe run run-1 was cancelled in train"),
        (workflow_of(shutdown="Terminate"), "CANCELLED", "imgpipe run run-1 was cancelled in train"),
        (None, "CANCELLED", "imgpipe run run-1 was cancelled in train"),
        (
            workflow_of(started=7 * DAY, activeDeadlineSeconds=7 * DAY),
            "FAILED",
            "imgpipe run run-1 failed in train: the run was stopped past its deadline",
        ),
        # An evicted step starts again in another pod.
        (workflow_of(started=DAY, activeDeadlineSeconds=7 * DAY), "", ""),
    ],
    ids=["cancelled", "shut-down", "deleted", "deadline", "evicted"],
)
def test_a_step_that_ends_with_its_run_reports_it(server, cluster, workflow, state, text):
    cluster(workflow)
    ended = run_python(TERMINATED_STEP)
    assert ended.returncode == 75, ended.stdout + ended.stderr
    assert [(content["state"], content["text"]) for _, _, content in server[0]] == (
        [(state, text)] if state else []
    )
    # Whether it has reported it, the step notify reads from the log.
    assert (webhook.STOP_REPORTED in ended.stdout) == bool(state)


def test_a_pause_is_as_long_as_the_server_asks_for(monkeypatch):
    pauses, statuses = [], [(429, "7"), (503, "3600"), (200, "")]
    monkeypatch.setattr(webhook.time, "sleep", pauses.append)

    class Webhook(Handler):
        def do_POST(self):  # noqa: N802
            self.read_body()
            status, pause = statuses.pop(0)
            self.send(status, b"", Retry_After=pause)

    with serve(Webhook) as port:
        monkeypatch.setenv("IMGPIPE_WEBHOOK_URL", f"http://127.0.0.1:{port}/")
        webhook.report_end(webhook.SUCCEEDED, "deploy")
    assert not statuses
    assert pauses == [7, 30]


@pytest.mark.parametrize(
    ("status", "target", "succeeds"),
    [(301, "/new", False), (302, "the same with https", False), (308, "/new", False), (302, "/answer", True)],
)
def test_an_address_that_has_moved_is_not_taken_for_one_that_was_called(
    monkeypatch, capsys, status, target, succeeds
):
    # A redirected POST becomes a GET: only services that answer with one, e.g. Apps Script, have the message.
    class Webhook(Handler):
        def do_POST(self):  # noqa: N802
            self.read_body()
            address = f"https://{self.headers['Host']}{self.path}" if target[0] != "/" else target
            self.send(status, Location=address)

        def do_GET(self):  # noqa: N802
            self.send(200, b"ok")

    monkeypatch.setattr(webhook, "_PAUSES_SECONDS", ())
    with serve(Webhook) as port:
        monkeypatch.setenv("IMGPIPE_WEBHOOK_URL", f"http://127.0.0.1:{port}/hooks/token-1")
        assert webhook.report_end(webhook.SUCCEEDED, "deploy") is succeeds
    reported = capsys.readouterr().out
    assert (f"status {status}, its address has moved" in reported) is not succeeds
    assert "token-1" not in reported
