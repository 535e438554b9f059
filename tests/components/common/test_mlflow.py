"""Runs are logged to the MLflow server that the environment names; no failure of it fails a step."""

import base64
import time
from contextlib import suppress

import pytest

from imgpipe.components.common import mlflow
from imgpipe.components.common.errors import InterruptedRunError, InvalidDataError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.mlflow import current_run, tracked_run
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.reporter import reporter
from tests.servers.http_server import Handler, serve
from tests.servers.mlflow import serve_tracking


@pytest.fixture
def tracking(monkeypatch):
    with serve_tracking() as (address, tracking):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield tracking


def warnings(capsys):
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    return [event["message"] for event in events if event and event["event"] == mlflow.FAILED_EVENT]


def evaluation(step):
    return Evaluation(step, step / 100, 1.0, 0.5, float("nan") if step == 10 else 0.25)


def test_without_a_server_or_a_run_nothing_is_logged(tracking, monkeypatch, capsys):
    assert current_run() is None
    with tracked_run("trial", nested=True) as run:
        assert run is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_RUN_ID", "run0")
    assert current_run() is None
    monkeypatch.delenv("MLFLOW_RUN_ID")
    with tracked_run("run") as run:
        assert run is None
    assert (tracking.runs, warnings(capsys)) == ({}, [])


def test_step_of_kubeflow_logs_to_its_own_run_and_does_not_end_it(tracking, monkeypatch):
    tracking.runs["nested"] = {"params": {"max_steps": "-1"}, "metrics": [], "status": "RUNNING"}
    monkeypatch.setenv("MLFLOW_RUN_ID", "nested")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    with tracked_run("train") as run:
        run.log_parameters({"max_steps": 300}, "train")
    assert tracking.runs["nested"]["params"] == {"max_steps": "-1", "train/max_steps": "300"}
    assert tracking.runs["nested"]["status"] == "RUNNING"
    assert len(tracking.runs) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (InvalidDataError("x", remedy="y"), "FAILED"),
        (ValueError(), "FAILED"),
        (InterruptedRunError("x", remedy="y"), "KILLED"),
    ],
)
def test_new_run_ends_as_the_block_does(tracking, error, status):
    try:
        with tracked_run("20261129-1", tags={"imgpipe.job_dir": "/runs/1"}) as run:
            assert current_run().run_id == run.run_id
            with tracked_run("trial 1", nested=True):
                assert current_run().run_id != run.run_id
            if error:
                raise error
    except type(error):
        pass
    assert current_run() is None
    outer, inner = tracking.runs.values()
    assert (outer["run_name"], outer["status"], outer["tags"]["imgpipe.job_dir"]) == (
        "20261129-1",
        status,
        "/runs/1",
    )
    assert (inner["run_name"], inner["status"]) == ("trial 1", "FINISHED")
    assert inner["tags"]["mlflow.parentRunId"] == "run0"


def test_experiment_of_a_name_is_found_or_created(tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flowers & trees")
    monkeypatch.setenv("MLFLOW_RUN_NAME", "first try")
    for _ in range(2):
        with tracked_run("run"):
            pass
    assert tracking.experiments == {"Default": "0", "flowers & trees": "1"}
    found = [(run["experiment_id"], run["run_name"]) for run in tracking.runs.values()]
    assert found == 2 * [("1", "first try")]


def test_evaluations_are_logged_once_with_their_steps(tracking):
    with tracked_run("run") as run:
        report = reporter("", run)
        report([evaluation(10)])
        report([evaluation(10), evaluation(20)])
    assert tracking.metrics("run0", "top_1_accuracy") == {10: 0.1, 20: 0.2}
    # Not a number is left out.
    assert tracking.metrics("run0", "train_loss") == {20: 0.25}
    assert len(tracking.runs["run0"]["metrics"]) == 9


def test_what_a_server_could_not_take_is_sent_later_with_one_warning(tracking, monkeypatch, capsys):
    monkeypatch.setenv("IMGPIPE_LOG_FORMAT", "json")
    with tracked_run("run") as run:
        report = reporter("", run)
        tracking.failures = [(503, "overloaded"), (503, "overloaded")]
        for number in range(1, 4):
            # Only the first is tried: the server has just failed.
            report([evaluation(10 * step) for step in range(1, number + 1)])
        assert len(tracking.failures) == 1
        tracking.failures.clear()
    assert tracking.metrics("run0", "top_1_accuracy") == {10: 0.1, 20: 0.2, 30: 0.3}
    assert warnings(capsys) == ["MLflow: the run run0 is incomplete: status 503 Service Unavailable"]


def test_names_and_values_have_the_form_that_the_server_takes(tracking):
    with tracked_run("run") as run:
        run.log_parameters({"long": 900 * "x", **{f"p{number}": number for number in range(150)}}, "train")
        run.add_metrics({"top_1_accuracy, city = Köln": 1.0})
    found = tracking.runs["run0"]
    assert (len(found["params"]["train/long"]), len(found["params"])) == (500, 151)
    assert found["metrics"][0]["key"] == "top_1_accuracy_ city _ Köln"


@pytest.mark.parametrize(
    ("variables", "authorization"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_AUTH": "kubernetes-namespaced"}, "Bearer of the pod"),
        (
            {"MLFLOW_TRACKING_USERNAME": "a", "MLFLOW_TRACKING_PASSWORD": "b"},
            f"Basic {base64.b64encode(b'a:b').decode()}",
        ),
        ({}, None),
    ],
)
def test_credentials_and_workspace_are_sent(tracking, monkeypatch, tmp_path, variables, authorization):
    (tmp_path / "token").write_text("of the pod\n")
    monkeypatch.setattr(mlflow, "_SERVICE_ACCOUNT_TOKEN", tmp_path / "token")
    for name, value in {**variables, "MLFLOW_WORKSPACE": "team"}.items():
        monkeypatch.setenv(name, value)
    with tracked_run("run"):
        pass
    assert {headers.get("Authorization") for headers in tracking.headers} == {authorization}
    assert {headers["X-Mlflow-Workspace"] for headers in tracking.headers} == {"team"}


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("sqlite:///mlflow.db", "not the address of a server"),
        ("http://[::1", "not the address of a server"),
        ("./mlruns", "not the address of a server"),
        ("http://user:secret@127.0.0.1:1/", "nothing is logged"),
    ],
)
def test_server_that_cannot_be_used_is_a_warning_without_secrets(monkeypatch, capsys, uri, text):
    monkeypatch.setenv("IMGPIPE_LOG_FORMAT", "json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with tracked_run("run") as run:
        assert run is None
    (warning,) = warnings(capsys)
    assert text in warning
    assert "secret" not in warning


class Other(Handler):
    """A proxy that asks to log in, a page, and a server that never ends its response."""

    def do_POST(self):  # noqa: N802
        self.read_body()
        if self.path.startswith("/login"):
            self.send(302, Location="http://127.0.0.1:1/")
        elif self.path.startswith("/page"):
            self.send(200, b"<html>")
        else:
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            for _ in range(20):
                time.sleep(0.1)
                with suppress(OSError):
                    self.wfile.write(b" ")


@pytest.mark.parametrize(
    ("path", "reason"),
    [("login", "status 302"), ("page", "is not JSON"), ("slow", "no response within")],
)
def test_other_servers_and_slow_ones_are_a_warning_in_time(monkeypatch, capsys, path, reason):
    monkeypatch.setenv("IMGPIPE_LOG_FORMAT", "json")
    monkeypatch.setattr(mlflow, "_SECONDS_PER_CALL", 0.5)
    with serve(Other) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}/{path}")
        started = time.monotonic()
        with tracked_run("run") as run:
            assert run is None
        assert time.monotonic() - started < 1.5
    assert reason in warnings(capsys)[0]
