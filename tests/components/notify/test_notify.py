"""The step notify posts how the run has ended, as the Workflow and the pods say it."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import LOG_FORMAT_VARIABLE, log_event
from imgpipe.components.common.step import log_error, run_component
from imgpipe.components.common.webhook import FAILED, STOP_REPORTED, report_end
from tests.servers.http_server import serve_json
from tests.servers.kubeflow import use_kubeconfig
from tests.servers.kubeflow_workflow import WORKFLOW, Pod, WorkflowState, node_id, stamp

PARENT = "exit-handler-1"
DAY = 24 * 3600
TERMINATED = "11-29 10:00:00 train: failed\n    problem: train was terminated by SIGTERM\n"
ON_EXIT = f"{WORKFLOW}(0).root(0).{PARENT}.onExit(0).notify(0)"


def with_exit_handler(manifest, started):
    """Adds the nodes of the exit handler, which runs."""
    for name, phase in ((f"{ON_EXIT}-driver(0)", "Failed"), (f"{ON_EXIT}.executor(0)", "Running")):
        node = {"id": node_id(name), "name": name, "type": "Pod", "phase": phase}
        manifest["status"]["nodes"][node["id"]] = {**node, "startedAt": "2026-11-29T00:00:00Z"}
    # The Workflow itself has not ended while its exit handler runs.
    manifest["status"].pop("finishedAt")
    manifest["status"]["startedAt"] = started.isoformat()
    return manifest


class Cluster:
    """The API server of a run's cluster, and the receiver of the webhook.

    Attributes:
        workflow: The run's Workflow; None = it was deleted.
        state: What has happened in the run, with the logs of its pods.
        refused: Parts of paths that get 403.
        posted: What the webhook has received.
    """

    def __init__(self):
        self.workflow, self.state, self.refused, self.posted = None, WorkflowState(), (), []

    def respond(self, method, path, query, body):
        if method == "POST":
            self.posted.append(json.loads(body))
            return 200, "ok"
        if any(part in path for part in self.refused):
            return 403, {"message": "forbidden"}
        if path.endswith("/pods/own"):
            metadata = {"name": "own", "labels": {"workflows.argoproj.io/workflow": WORKFLOW}}
            return 200, {"metadata": metadata, "spec": {"containers": []}}
        if path.endswith(f"/workflows/{WORKFLOW}"):
            return (404, {"message": "not found"}) if self.workflow is None else (200, self.workflow)
        pod = self._pod(query["fieldSelector"] if path.endswith("/events") else path)
        if path.endswith("/log"):
            return (200, pod.log) if pod.log else (400, {"message": "the container has not started"})
        items = [
            {"metadata": {}, "involvedObject": {}, "message": text, "lastTimestamp": stamp(number)}
            for number, text in enumerate(pod.warnings)
        ]
        return 200, {"kind": "EventList", "items": items, "metadata": {}}

    def _pod(self, text):
        [pod] = [
            pod
            for step, pods in self.state.pods.items()
            for number, pod in enumerate(pods)
            if f"{WORKFLOW}-run-1--{step}--{number}-" in text
        ]
        return pod


@pytest.fixture
def notify(monkeypatch, tmp_path):
    """``notify(pods, **state)`` runs the step in a run with these pods; returns what was posted."""
    cluster = Cluster()
    monkeypatch.delenv(LOG_FORMAT_VARIABLE, raising=False)
    with serve_json(cluster.respond) as address:
        use_kubeconfig(monkeypatch, tmp_path, SimpleNamespace(address=address))
        for name, value in (
            ("KFP_POD_NAME", "own"),
            ("IMGPIPE_RUN_ID", "run-1"),
            ("IMGPIPE_WEBHOOK_URL", f"{address}/hook"),
        ):
            monkeypatch.setenv(name, value)

        def run(pods, *, refused=(), deleted=False, **state):
            parents = dict.fromkeys(pods, PARENT)
            cluster.state = WorkflowState(pods=pods, parents=parents, finished=True, **state)
            started = datetime.now(UTC) - timedelta(seconds=cluster.state.deadline)
            manifest = with_exit_handler(cluster.state.manifest("run-1"), started)
            cluster.workflow = None if deleted else manifest
            cluster.refused = refused
            run_component("imgpipe.components.notify.component", "notify", {})
            assert len(cluster.posted) <= 1
            return cluster.posted[0] if cluster.posted else None

        yield run


def test_a_run_that_succeeded(notify):
    # A pod that was deleted was started again.
    posted = notify({"convert": [Pod("Error", "pod deleted"), Pod()], "train": [Pod()]})
    assert (posted["state"], posted["run_id"]) == ("SUCCEEDED", "run-1")
    assert posted["text"] == "imgpipe run run-1 succeeded"


def test_a_step_that_failed_is_reported_with_the_error_that_it_printed(notify, capsys):
    error = InvalidDataError("the image is damaged", where="a.csv, line 2", remedy="replace it")
    log_error("convert", error)
    failed = Pod("Failed", "Error (exit code 1)", capsys.readouterr().out)
    posted = notify({"prepare": [Pod()], "convert": [failed]})
    assert (posted["state"], posted["step"]) == ("FAILED", "convert")
    assert (posted["problem"], posted["remedy"]) == ("the image is damaged", "replace it")


@pytest.mark.parametrize("log", ["11-29 10:00:00 train: step 5\n", ""])
def test_a_pod_that_was_killed_is_reported_with_the_reason_of_kubernetes(notify, log):
    posted = notify({"convert": [Pod()], "train": [Pod("Failed", "OOMKilled (exit code 137)", log)]})
    assert (posted["state"], posted["step"]) == ("FAILED", "train")
    assert posted["problem"] == "OOMKilled (exit code 137)"
    assert "imgpipe describe" in posted["remedy"]


def test_a_run_that_was_cancelled_while_a_pod_waited(notify):
    posted = notify({"train": [Pod("Failed", "Step exceeded its deadline")]}, cancelled=True)
    assert (posted["state"], posted["step"]) == ("CANCELLED", "train")
    assert posted["text"] == "imgpipe run run-1 was cancelled in train"


@pytest.mark.parametrize("log", ["11-29 10:00:00 train: started\n", TERMINATED])
def test_a_run_that_was_cancelled_while_a_step_ran_which_was_killed_before_it_reported_it(notify, log):
    posted = notify({"train": [Pod("Failed", "Error (exit code 143)", log)]}, cancelled=True)
    assert (posted["state"], posted["step"]) == ("CANCELLED", "train")


def test_a_run_that_was_cancelled_while_a_step_ran_was_reported_by_the_step(notify, capsys):
    log_event("stop_reported", f"train: {STOP_REPORTED}", step="train")
    log = TERMINATED + capsys.readouterr().out
    pods = {"train": [Pod("Failed", "Error (exit code 143)", log)]}
    assert notify(pods, cancelled=True) is None


@pytest.mark.parametrize(
    ("warnings", "reason"),
    [
        (("an older one", "0/1 nodes are available"), "0/1 nodes are available"),
        ((), "Step exceeded its deadline"),
    ],
)
def test_a_pod_that_could_not_start_until_the_deadline(notify, warnings, reason):
    pods = {"convert": [Pod("Failed", "Step exceeded its deadline", warnings=warnings)]}
    posted = notify(pods, deadline=7 * DAY)
    assert (posted["state"], posted["step"]) == ("FAILED", "convert")
    assert posted["problem"] == f"the run was stopped past its deadline: {reason}"


def test_a_run_whose_workflow_was_deleted_is_not_reported_as_succeeded(notify):
    assert notify({"train": [Pod()]}, deleted=True)["state"] == "UNKNOWN"


@pytest.mark.parametrize("refused", ["/workflows/", "/pods/own"])
def test_a_run_that_may_not_be_read_is_reported_as_such(notify, refused):
    posted = notify({"train": [Pod()]}, refused=(refused,))
    assert posted["state"] == "UNKNOWN"
    assert "403 forbidden" in posted["problem"]
    assert posted["remedy"] == "allow the account to get workflows"


def test_logs_and_events_need_not_be_readable(notify):
    posted = notify({"train": [Pod("Failed", "Error (exit code 1)")]}, refused=("/log", "/events"))
    assert posted["problem"] == "Error (exit code 1)"


def test_the_other_steps_post_nothing(notify, monkeypatch):
    monkeypatch.setenv("IMGPIPE_HAS_NOTIFY", "1")
    report_end(FAILED, "train", problem="the disk is full")
    monkeypatch.delenv("IMGPIPE_HAS_NOTIFY")
    assert notify({"train": [Pod()]})["state"] == "SUCCEEDED"
