"""Calls of Vertex AI that fail: silence, pages, bursts of errors, lost responses, concurrent clients."""

import threading
import time

import pytest
from google.cloud import aiplatform_v1 as vertex

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    UnavailableError,
)
from imgpipe.components.platforms import polling, responses, submission
from imgpipe.components.platforms.vertex.client import VertexLocation, wait_for
from imgpipe.components.platforms.vertex.job_requests import (
    container_spec,
    custom_job,
    job_spec,
    worker_pool_spec,
)
from imgpipe.components.platforms.vertex.jobs import CUSTOM_JOB, quoted, run_job, state_of
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs, pipeline_job_body
from tests.servers.faults import Fault, once, start_fault_proxy
from tests.servers.vertex import start_vertex_server

POOL = {
    **worker_pool_spec({"machineType": "n1-standard-4"}, 1),
    "containerSpec": container_spec("image", ["true"], [], {}),
}
BODY = custom_job("job_1", job_spec([POOL]), job_label="job_1", labels={})
REQUEST = ("CustomJob", BODY)
VERBS = {
    "list": lambda jobs, _: jobs.list_jobs(5),
    "describe": lambda jobs, _: jobs.describe("job_1"),
    "cancel": lambda jobs, _: jobs.cancel("job_1"),
    "stream-logs": lambda jobs, _: list(jobs.logs("job_1", follow=False)),
    "submit": lambda jobs, _: jobs.submit(*REQUEST),
    "schedule create": lambda jobs, body: jobs.create_schedule("nightly", "0 3 * * 1", body),
    "schedule list": lambda jobs, _: jobs.list_schedules(),
}
CREATING = {"submit": "customJobs", "schedule create": "schedules"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(polling, "_RETRY_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(polling, "RETRY_SECONDS", 3)
    monkeypatch.setattr(responses, "READ_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(submission, "SETTLE_SECONDS", 0.3)
    with start_vertex_server(tmp_path) as started:
        yield started


@pytest.fixture
def pipeline(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("{pipelineInfo: {name: p}, root: {}, schemaVersion: 2.1.0}")
    return pipeline_job_body("nightly", {}, tmp_path / "pipeline.yaml", "gs://b/p", settings={})


def location(address):
    return VertexLocation("flowers", "us-central1", address)


def jobs_at(address):
    return VertexJobs(location(address))


@pytest.mark.parametrize("verb", VERBS)
def test_a_silent_server_ends_every_verb_with_an_error(server, pipeline, verb, monkeypatch):
    monkeypatch.setattr(polling, "RETRY_SECONDS", 1)
    monkeypatch.setattr(responses, "READ_TIMEOUT_SECONDS", 0.5)
    with start_fault_proxy(server.address, lambda *_: Fault("silence")) as proxy:
        started = time.monotonic()
        with pytest.raises(InterruptedRunError, match="cannot reach Vertex AI"):
            VERBS[verb](jobs_at(proxy.address), pipeline)
        assert time.monotonic() - started < 6


@pytest.mark.parametrize("kind", ["page", "null", "broken"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_response_of_another_server_is_an_error_of_its_own(server, pipeline, verb, kind):
    jobs = jobs_at(server.address)
    VERBS["submit"](jobs, pipeline)
    VERBS["schedule create"](jobs, pipeline)
    with start_fault_proxy(server.address, once(Fault(kind))) as proxy:
        with pytest.raises(InvalidResponseError, match="not one of Google Cloud"):
            VERBS[verb](jobs_at(proxy.address), pipeline)
        assert len(proxy.injected) == 1
    assert len(server.resources) == 2


@pytest.mark.parametrize("kind", ["page", "null", "broken", "cut", "silence", "reset", "status"])
@pytest.mark.parametrize("verb", CREATING)
def test_a_creation_whose_response_was_lost_is_found_not_repeated(server, pipeline, verb, kind):
    with start_fault_proxy(server.address, once(Fault(kind, executed=True), "POST")) as proxy:
        _, existed = VERBS[verb](jobs_at(proxy.address), pipeline)
        assert [fault.kind for fault in proxy.injected] == [kind]
    assert not existed
    assert len(server.created(CREATING[verb])) == 1


@pytest.mark.parametrize(
    ("verb", "status"),
    [*((verb, 429) for verb in VERBS), *(("submit", status) for status in (408, 500, 502, 503, 504))],
)
def test_a_busy_server_is_asked_again_when_it_says_so(server, pipeline, verb, status):
    VERBS["submit"](jobs_at(server.address), pipeline)
    fault = Fault("status", status=status, retry_after="1")
    with start_fault_proxy(server.address, once(fault)) as proxy:
        started = time.monotonic()
        VERBS[verb](jobs_at(proxy.address), pipeline)
        assert len(proxy.injected) == 1
    assert time.monotonic() - started >= 1
    assert len(server.created("customJobs")) == 1


@pytest.mark.parametrize("clients", [2, 5])
@pytest.mark.parametrize("verb", CREATING)
def test_submissions_at_the_same_moment_end_as_one(server, pipeline, verb, clients):
    barrier = threading.Barrier(clients)

    def choose(method, path):
        # All of them have searched before the first one creates.
        if method == "POST" and path.partition("?")[0].endswith(CREATING[verb]):
            barrier.wait(20)

    results = []
    with start_fault_proxy(server.address, choose) as proxy:
        threads = [
            threading.Thread(target=lambda: results.append(VERBS[verb](jobs_at(proxy.address), pipeline)))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    name = "name" if verb == "submit" else "resource"
    assert len(results) == clients
    [kept] = {getattr(found, name) for found, _ in results}
    assert sum(not existed for _, existed in results) == 1
    active = [
        found.name for found in server.created(CREATING[verb]) if not found.state.name.endswith("CANCELLED")
    ]
    assert active == [kept]
    if verb == "submit":
        # The cancelled ones stay visible.
        described = jobs_at(server.address).describe("job_1")
        assert described.name == kept
        assert {job["state"] for job in described.details["same_id"]} == {"CANCELLED"}
        assert len(described.details["same_id"]) == clients - 1


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Quota exceeded for 'custom_model_training_nvidia_t4_gpus'", UnavailableError),
        ("Quota exceeded for 'requests' and limit 'requests per minute'", InterruptedRunError),
    ],
)
def test_a_lack_of_machines_is_not_a_rate_limit(server, message, error, monkeypatch):
    monkeypatch.setattr(polling, "RETRY_SECONDS", 0)
    server.forced_responses = [
        (200, {}),
        (200, {}),
        (200, {}),
        (429, message),
        (200, {}),
        (200, {}),
        (200, {}),
    ]
    with pytest.raises(error, match="Quota exceeded"):
        jobs_at(server.address).submit(*REQUEST)


BURST = [Fault("status", status=status) for status in (408, 429, 500, 502, 503, 504)]
BURST += [Fault("reset"), Fault("page"), Fault("null"), Fault("broken", executed=True)]


def test_a_burst_of_errors_does_not_end_a_step_that_follows_a_job(server, tmp_path, monkeypatch):
    monkeypatch.setattr("imgpipe.components.platforms.polling.FIRST_PAUSE_SECONDS", 0.001)
    remaining = list(BURST)

    def choose(method, path):
        if method == "GET" and "/customJobs/" in path:
            if remaining:
                return remaining.pop()
            [job] = server.created("customJobs")
            job.state = vertex.JobState.JOB_STATE_SUCCEEDED
        return None

    with start_fault_proxy(server.address, choose) as proxy:
        ended = run_job(
            location(proxy.address),
            CUSTOM_JOB,
            lambda: BODY,
            tmp_path / "gcp_resources",
            step="train",
        )
    assert state_of(ended) == "SUCCEEDED"
    assert remaining == []


@pytest.mark.parametrize("can_cancel", [True, False])
def test_a_step_that_fails_cancels_its_job_or_names_the_command(server, tmp_path, can_cancel):
    def choose(method, path):
        if "/customJobs/" in path and (method == "GET" or not can_cancel):
            return Fault("status", status=403)
        return None

    with (
        start_fault_proxy(server.address, choose) as proxy,
        pytest.raises(UnavailableError, match="403") as caught,
    ):
        run_job(location(proxy.address), CUSTOM_JOB, lambda: BODY, tmp_path / "gcp_resources", step="train")
    [job] = server.created("customJobs")
    if can_cancel:
        assert state_of(job) == "CANCELLED"
    else:
        assert f"imgpipe cancel {job.name} --target vertex" in caught.value.remedy


def test_a_step_that_gets_no_response_names_its_job_and_the_command(server, tmp_path, monkeypatch):
    monkeypatch.setattr(polling, "SILENCE_LIMIT_SECONDS", 0.5)

    def choose(method, path):
        return Fault("reset") if method == "GET" and "/customJobs/" in path else None

    with (
        start_fault_proxy(server.address, choose) as proxy,
        pytest.raises(InterruptedRunError, match="may still be running") as caught,
    ):
        run_job(location(proxy.address), CUSTOM_JOB, lambda: BODY, tmp_path / "gcp_resources", step="train")
    [job] = server.created("customJobs")
    assert f"imgpipe cancel {job.name} --target vertex" in caught.value.remedy
    assert state_of(job) == "PENDING"


def test_describe_and_cancel_cover_all_jobs_of_an_id(server, pipeline):
    jobs = jobs_at(server.address)
    VERBS["submit"](jobs, pipeline)
    [first] = server.created("customJobs")
    second = vertex.CustomJob(first)
    second.name = f"{first.name}0"
    server.resources[second.name] = second
    assert [job["name"] for job in jobs.describe("job_1").details["same_id"]] == [second.name]
    jobs.cancel("job_1")
    assert {state_of(job) for job in server.created("customJobs")} == {"CANCELLED"}


def test_filters_are_escaped():
    assert quoted('a" OR display_name="b\\') == r'"a\" OR display_name=\"b\\"'


def test_another_request_under_the_id_is_refused_and_ends_nothing(server, pipeline):
    jobs = jobs_at(server.address)
    VERBS["submit"](jobs, pipeline)
    other = custom_job("job_1", job_spec([POOL, POOL]), job_label="job_1", labels={})
    with pytest.raises(InvalidArgumentError, match="used for another request"):
        jobs.submit("CustomJob", other)
    [job] = server.created("customJobs")
    assert state_of(job) == "PENDING"


def test_an_operation_that_outlasts_its_limit_is_cancelled_and_named():
    class Operation:
        operation = type("Message", (), {"name": "projects/1/operations/2"})

        def done(self):
            return False

    class Client:
        def cancel_operation(self, request, timeout):
            cancelled.append((request["name"], timeout))

    cancelled = []
    with pytest.raises(CheckFailedError, match="has not ended within 0 s") as caught:
        wait_for(Operation(), 0, Client())
    assert cancelled == [("projects/1/operations/2", responses.READ_TIMEOUT_SECONDS)]
    assert caught.value.where == "projects/1/operations/2"
