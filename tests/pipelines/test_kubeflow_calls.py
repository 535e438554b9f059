"""Calls of Kubeflow Pipelines that fail: silence, pages, restarts, lost responses, concurrent clients."""

import itertools
import threading
import time
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from imgpipe.components.common.errors import InvalidArgumentError, InvalidResponseError
from imgpipe.components.platforms import polling, responses, submission
from imgpipe.components.platforms.kubeflow.client import KubeflowClient
from imgpipe.pipelines.cli import imgpipe
from imgpipe.pipelines.compiled_pipelines import TRAIN, pipeline_file
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest
from imgpipe.pipelines.targets.kubeflow_schedules import KubeflowSchedules
from tests.servers.faults import Fault, once, start_fault_proxy
from tests.servers.kubeflow import start_kubeflow_server, use_kubeconfig
from tests.servers.kubeflow_workflow import Pod, WorkflowState

PARAMETERS = {"images": "gs://bucket/flowers"}
VERBS = {
    "list": lambda jobs, _: jobs.list_jobs(5),
    "describe": lambda jobs, _: jobs.describe("job_1"),
    "cancel": lambda jobs, _: jobs.cancel("job_1"),
    "submit": lambda jobs, request: jobs.submit("job_1", request),
    "schedule create": lambda jobs, request: KubeflowSchedules(jobs.client).create_schedule(
        "nightly", "0 3 * * 1", request
    ),
    "schedule list": lambda jobs, _: KubeflowSchedules(jobs.client).list_schedules(),
}

CREATING = ("submit", "schedule create")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(polling, "_RETRY_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(polling, "RETRY_SECONDS", 3)
    monkeypatch.setattr(responses, "READ_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(submission, "SETTLE_SECONDS", 0.3)
    with start_kubeflow_server(tmp_path / "cluster") as started:
        yield started


@pytest.fixture
def request_(tmp_path):
    with pipeline_file("kubeflow", Images(), f"{TRAIN}_all_arguments") as file:
        yield RunRequest(PARAMETERS, file)


def connected(address):
    """Returns the runs at an address, after the client's first request."""
    jobs = KubeflowJobs(KubeflowClient(address))
    assert jobs.client.api
    return jobs


@pytest.mark.parametrize("verb", VERBS)
def test_a_silent_server_ends_every_verb_with_an_error(server, request_, verb, monkeypatch):
    monkeypatch.setattr(polling, "RETRY_SECONDS", 1)
    silent = []
    with start_fault_proxy(server.address, lambda *_: Fault("silence") if silent else None) as proxy:
        jobs = connected(proxy.address)
        silent.append(True)
        started = time.monotonic()
        with pytest.raises(polling.InterruptedRunError, match="ReadTimeoutError"):
            VERBS[verb](jobs, request_)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        *((verb, "null") for verb in VERBS),
        *((verb, kind) for verb in CREATING for kind in ("page", "broken")),
    ],
)
def test_a_response_of_another_server_is_not_an_empty_list(server, request_, verb, kind):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    KubeflowSchedules(jobs.client).create_schedule("nightly", "0 3 * * 1", request_)
    for part in ("/experiments", "runs?"):
        with start_fault_proxy(server.address, once(Fault(kind), "GET", part)) as proxy:
            with pytest.raises(
                InvalidResponseError, match=r"not one of Kubeflow Pipelines|login is required"
            ):
                VERBS[verb](connected(proxy.address), request_)
            assert len(proxy.injected) == 1
    assert len(server.runs) == len(server.recurring_runs) == 1


def test_an_object_of_another_service_is_not_an_empty_list(server, request_):
    jobs = connected(server.address)
    server.forced_responses = [(200, {"kind": "Status", "status": "Failure"})]
    with pytest.raises(InvalidResponseError, match="it has the fields kind, status"):
        jobs.list_jobs(5)


@pytest.mark.parametrize("kind", ["page", "null", "broken", "cut", "silence", "reset", "status"])
@pytest.mark.parametrize("verb", CREATING)
def test_a_creation_whose_response_was_lost_is_found_not_repeated(server, request_, verb, kind):
    part = "/runs" if verb == "submit" else "/recurringruns"
    with start_fault_proxy(server.address, once(Fault(kind, executed=True), "POST", part)) as proxy:
        _, existed = VERBS[verb](connected(proxy.address), request_)
        assert [fault.kind for fault in proxy.injected] == [kind]
    assert not existed
    created = server.runs if verb == "submit" else server.recurring_runs
    assert len(created) == 1


@pytest.mark.parametrize(
    ("verb", "status"),
    [*((verb, 429) for verb in VERBS), *(("submit", status) for status in (408, 500, 502, 503, 504))],
)
def test_a_busy_server_is_asked_again_when_it_says_so(server, request_, verb, status):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    fault = Fault("status", status=status, retry_after="1")
    with start_fault_proxy(server.address, once(fault, "", "runs")) as proxy:
        jobs = connected(proxy.address)
        started = time.monotonic()
        VERBS[verb](jobs, request_)
        assert len(proxy.injected) == 1
    assert time.monotonic() - started >= 1
    assert len(server.runs) == 1


FAULTS = {
    "cut": Fault("cut", executed=True),
    "busy": Fault("status", status=429, retry_after="Sun, 06 Nov 1994 08:49:37 GMT"),
    "broken": Fault("broken"),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("verb", [*VERBS, "stream-logs"])
def test_a_fault_in_any_request_is_survived_or_named(server, request_, verb, kind, tmp_path, monkeypatch):
    """Every request in turn: a cut response and 429 are tried again, a foreign response is an error."""
    use_kubeconfig(monkeypatch, tmp_path, server)
    monkeypatch.setattr(submission, "SETTLE_SECONDS", 0)
    verbs = {**VERBS, "stream-logs": lambda jobs, _: list(jobs.logs("job_1", follow=False, everything=True))}
    connected(server.address).submit("job_1", request_)
    [run_id] = server.runs
    server.workflows = {run_id: WorkflowState({"train": [Pod(log="a")]}, finished=True)}
    resources = (server.runs, server.recurring_runs, server.pipelines, server.versions, server.experiments)
    number = count = 0
    while number <= count:
        requests = []

        def choose(_method, _path, requests=requests, number=number):
            requests.append(1)
            return FAULTS[kind] if len(requests) == number else None

        if verb in CREATING:
            for created in resources:
                created.clear()
        else:
            server.runs[run_id]["state"] = "RUNNING" if verb == "cancel" else "SUCCEEDED"
        with start_fault_proxy(server.address, choose) as proxy:
            try:
                result = verbs[verb](KubeflowJobs(KubeflowClient(proxy.address)), request_)
            except InvalidResponseError:
                assert kind == "broken"
            else:
                assert verb != "stream-logs" or result == ["a"]
        if verb in CREATING:
            assert all(len(created) <= 1 for created in resources)
        # The first round, without a fault, counts the requests.
        count = count or len(requests)
        number += 1
    assert count > 1


def test_the_logs_in_kubeflows_web_interface_are_read_again_when_it_says_so(server, request_, monkeypatch):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    [run_id] = server.runs
    server.workflows[run_id] = WorkflowState({"train": [Pod(log="a")]}, finished=True)
    server.runs[run_id]["state"] = "SUCCEEDED"
    for fault in (Fault("status", status=429, retry_after="0"), Fault("cut"), Fault("reset")):
        with start_fault_proxy(server.address, once(fault, "GET", "/artifacts/")) as proxy:
            assert list(connected(proxy.address).logs("job_1", follow=False, everything=True)) == ["a"]
            assert proxy.injected == [fault]


@pytest.mark.parametrize("verb", VERBS)
def test_a_restart_of_the_server_is_survived(server, request_, verb):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    with start_fault_proxy(server.address, once(Fault("restart", seconds=1), "", "runs")) as proxy:
        VERBS[verb](connected(proxy.address), request_)
    assert len(server.runs) == 1


@pytest.mark.parametrize("verb", CREATING)
@pytest.mark.parametrize("clients", [2, 5])
def test_submissions_at_the_same_moment_end_as_one(server, request_, clients, verb):
    barrier = threading.Barrier(clients)

    def choose(method, path):
        # All of them have searched before the first one creates.
        if method == "POST" and path.endswith("runs"):
            barrier.wait(20)

    results = []
    with start_fault_proxy(server.address, choose) as proxy:

        def submit():
            jobs = connected(proxy.address)
            results.append(VERBS[verb](jobs, request_))

        threads = [threading.Thread(target=submit) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    created = server.runs if verb == "submit" else server.recurring_runs
    [remaining] = created
    assert len(results) == clients
    assert {getattr(found, "name" if verb == "submit" else "resource") for found, _ in results} == {remaining}
    assert sum(not existed for _, existed in results) == 1


def test_describe_and_cancel_cover_all_runs_of_a_job_id(server, request_):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    [first] = server.runs.values()
    # As after two clients, of which one was killed.
    second = {**first, "run_id": "second", "created_at": "2026-11-29T00:00:00Z", "state": "RUNNING"}
    server.runs["second"] = second
    described = jobs.describe("job_1")
    assert described.name == "second"
    assert described.details["same_id"] == [
        {"name": first["run_id"], "state": "PENDING", "created": first["created_at"][:19] + "Z"}
    ]
    jobs.cancel("job_1")
    assert {run["state"] for run in server.runs.values()} == {"FAILED"}
    assert {job.state for job in jobs.list_jobs(5)} == {"CANCELLED"}


def test_a_cancellation_that_did_not_reach_the_workflow_is_sent_again(server, request_):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    [run] = server.runs.values()
    workflow = server.workflows[run["run_id"]] = WorkflowState(pods={"train": [Pod("Running")]})
    server.failed_cancellations = 1

    def report(method, path):
        # KFP's persistence agent reports that the Workflow still runs.
        if "v1beta1" in path:
            run["state"] = "RUNNING"

    with start_fault_proxy(server.address, report) as proxy:
        connected(proxy.address).cancel("job_1")
    assert workflow.cancelled


def test_a_cancellation_that_never_reaches_the_workflow_is_an_error(server, request_):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    [run_id] = server.runs
    server.workflows[run_id] = WorkflowState(pods={"train": [Pod("Running")]})
    server.failed_cancellations = 1
    with pytest.raises(polling.InterruptedRunError, match="not passed the cancellation"):
        jobs.cancel("job_1")


def test_a_list_has_as_many_runs_as_were_asked_for(server, request_):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    [first] = server.runs.values()
    for number in range(230):
        run_id = f"run-{number}"
        server.runs[run_id] = {
            **first,
            "run_id": run_id,
            "created_at": f"2126-11-29T00:{number // 60:02d}:00Z",
        }
    assert len({job.name for job in jobs.list_jobs(215)}) == 215
    assert len(jobs.list_jobs(1_000)) == 231


@pytest.mark.parametrize("newer", ["RUNNING", "SUCCEEDED"])
def test_a_clone_of_an_ended_run_is_neither_cancelled_nor_deleted(server, request_, newer):
    jobs = connected(server.address)
    jobs.submit("job_1", request_)
    [first] = server.runs.values()
    first["state"] = "FAILED"
    # As after Clone run in the browser.
    clone = {**first, "run_id": "clone", "created_at": "2126-11-29T00:00:00Z", "state": newer}
    server.runs["clone"] = clone
    job, existed = jobs.submit("job_1", request_)
    assert existed
    assert job.name == jobs.describe("job_1").name == ("clone" if newer == "RUNNING" else first["run_id"])
    assert server.runs["clone"]["state"] == newer


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("http://kubeflow.example", "secret", "over plain http"),
        ("http://10.0.0.1:8080", "secret", "over plain http"),
        ("https://me:secret@kubeflow.example", "", "contains a user name or a password"),
    ],
)
def test_a_token_or_password_that_others_could_read_is_refused(host, token, message):
    line = ["list", "--target", "kubeflow", "--host", host, *(["--token", token] if token else [])]
    result = CliRunner().invoke(imgpipe, line)
    assert result.exit_code == 64
    assert message in result.stderr
    assert "secret" not in result.output
    for allowed in ("http://localhost:8080", "http://[::1]:80", "https://kubeflow.example"):
        KubeflowClient(allowed, token=token)


def test_another_request_at_the_same_moment_ends_its_own_run(server, request_, monkeypatch):
    jobs = connected(server.address)
    other = RunRequest({"images": "gs://bucket/others"}, request_.pipeline_file)
    start = KubeflowJobs._start
    # Times of creation have whole seconds; within one second, the runs are ordered by their ids.
    seconds = itertools.count()
    server.clock = lambda: datetime.fromtimestamp(next(seconds), UTC)

    def start_after_the_other(self, job_id, request):
        monkeypatch.setattr(KubeflowJobs, "_start", start)
        connected(server.address).submit(job_id, other)
        return start(self, job_id, request)

    monkeypatch.setattr(KubeflowJobs, "_start", start_after_the_other)
    with pytest.raises(InvalidArgumentError, match="used for another request"):
        jobs.submit("job_1", request_)
    [run] = server.runs.values()
    assert run["runtime_config"]["parameters"] == other.parameters
