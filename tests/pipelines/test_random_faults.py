"""Random faults between the clients and Kubeflow Pipelines or Vertex AI: status, page, silence, reset, ...

Every call must return or raise a PipelineError within its deadline. If all calls under one id succeed, it has
one active run, job or schedule; a call that fails may leave another one, which its error reports, `describe`
names and the next command ends. `cancel` ends everything.
"""

import random
import threading
import time
import traceback
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from imgpipe.components.common.errors import InterruptedRunError, MissingInputError, PipelineError
from imgpipe.components.common.fields_reader import FieldsReader
from imgpipe.components.common.hyperparameters import read_hyperparameters
from imgpipe.components.platforms import polling, responses, submission
from imgpipe.components.platforms.kubeflow import client as kubeflow_client
from imgpipe.components.platforms.kubeflow.client import KubeflowClient
from imgpipe.components.platforms.vertex.client import VertexLocation
from imgpipe.components.platforms.vertex.job_requests import container_spec, custom_job, job_spec, tuning_job
from imgpipe.components.platforms.vertex.jobs import CUSTOM_JOB, run_job
from imgpipe.pipelines.targets.jobs import ENDED
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest
from imgpipe.pipelines.targets.kubeflow_schedules import KubeflowSchedules
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs, pipeline_job_body
from tests.servers.faults import Fault, start_fault_proxy
from tests.servers.kubeflow import start_kubeflow_server
from tests.servers.vertex import start_vertex_server

SPEC = """\
components: {}
deploymentSpec: {executors: {}}
pipelineInfo: {name: p}
root: {dag: {tasks: {}}, inputDefinitions: {parameters: {n: {parameterType: NUMBER_INTEGER}}}}
schemaVersion: 2.1.0
---
platforms: {kubernetes: {deploymentSpec: {executors: {}}}}
"""
SEARCH_SPACE = {
    "maxTrials": 2,
    "params": [{"parameterName": "weight_decay", "type": "DOUBLE", "minValue": 0.1, "maxValue": 1}],
}
LIMITS = {
    (polling, "_RETRY_PAUSE_SECONDS"): 0.02,
    (polling, "_MAX_RETRY_PAUSE_SECONDS"): 0.1,
    (polling, "RETRY_SECONDS"): 2.0,
    (polling, "FIRST_PAUSE_SECONDS"): 0.01,
    (polling, "MAX_PAUSE_SECONDS"): 0.05,
    (polling, "SILENCE_LIMIT_SECONDS"): 1.0,
    (responses, "CONNECT_TIMEOUT_SECONDS"): 1,
    (responses, "READ_TIMEOUT_SECONDS"): 0.4,
    (submission, "SETTLE_SECONDS"): 0.05,
    (kubeflow_client, "_CONNECT_SECONDS"): 1.0,
    (kubeflow_client, "_HEALTH_TIMEOUT_SECONDS"): 1,
}
# Search and creation are repeated for RETRY_SECONDS each; a second for two busy cores.
CALL_SECONDS = 3 * LIMITS[polling, "RETRY_SECONDS"] + 2 * LIMITS[responses, "READ_TIMEOUT_SECONDS"] + 1
KINDS = ("status", "page", "null", "broken", "cut", "silence", "reset", "restart")
STATUSES = (408, 429, 500, 502, 503, 504)


class RandomFaults:
    """Chooses a random fault for some of the requests, while it is active."""

    def __init__(self, rng, count):
        self.rng, self.remaining, self.share = rng, count, 0.0
        self.injected = Counter()
        self.lock = threading.Lock()

    def __call__(self, _method, _path):
        with self.lock:
            if self.remaining == 0 or self.rng.random() >= self.share:
                return None
            self.remaining -= 1
            kind = self.rng.choice(KINDS)
            self.injected[kind] += 1
            return Fault(
                kind,
                executed=self.rng.random() < 0.5,
                status=self.rng.choice(STATUSES),
                retry_after=self.rng.choice(("", "0", "1", "3600", "soon", "Sun, 06 Nov 1994 08:49:37 GMT")),
                seconds=self.rng.uniform(0, 1),
            )


class Kubeflow:
    """Submissions, schedules and polling on Kubeflow."""

    more_verbs = ()

    def __init__(self, server, file):
        self.server, self.request = server, RunRequest({"n": 1}, file)

    def jobs(self, address):
        return KubeflowJobs(KubeflowClient(address))

    def submit(self, address, name):
        self.jobs(address).submit(name, self.request)

    def schedule(self, address, name):
        KubeflowSchedules(KubeflowClient(address)).create_schedule(name, "0 3 * * 1", self.request)

    def follow(self, address, name):
        self.jobs(self.server.address).submit(name, self.request)
        jobs, polls = self.jobs(address), iter(range(4))

        def end_after_four(_):
            if next(polls, None) is None:
                for run in self.server.runs.values():
                    run["state"] = "SUCCEEDED"

        job = polling.poll(
            lambda: jobs.describe(name), lambda job: job.state in ENDED, on_response=end_after_four
        )
        assert job.state == "SUCCEEDED"

    def schedules(self):
        return KubeflowSchedules(KubeflowClient(self.server.address))

    def named(self, name):
        """Returns (id, whether it is active) of the runs and schedules of a name."""
        runs = [run for run in self.server.runs.values() if run["display_name"] == name]
        return [(run["run_id"], run["state"] in ("PENDING", "RUNNING")) for run in runs], [
            run["recurring_run_id"]
            for run in self.server.recurring_runs.values()
            if run["display_name"] == name
        ]


class Vertex:
    """Submissions, searches, schedules and steps that follow a job on Vertex AI."""

    more_verbs = ("tune",)

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        (folder / "vertex.yaml").write_text("{pipelineInfo: {name: p}, root: {}, schemaVersion: 2.1.0}")

    def body(self, name):
        pool = {"machineSpec": {"machineType": "n1-standard-4"}, "replicaCount": 1}
        pool["containerSpec"] = container_spec("image", ["true"], [], {})
        return custom_job(name, job_spec([pool]), job_label=name, labels={})

    def location(self, address):
        return VertexLocation("flowers", "us-central1", address)

    def jobs(self, address):
        return VertexJobs(self.location(address))

    def submit(self, address, name):
        self.jobs(address).submit("CustomJob", self.body(name))

    def schedule(self, address, name):
        body = pipeline_job_body(name, {}, self.folder / "vertex.yaml", "gs://b/p", settings={})
        self.jobs(address).create_schedule(name, "0 3 * * 1", body)

    def follow(self, address, name):
        polls = iter(range(4))

        def end_after_four(job):
            if next(polls, None) is None:
                self.server.resources[job.name].state = type(job.state).JOB_STATE_SUCCEEDED

        resources = self.folder / f"{name}-resources"
        # As a step that is started again when its exit code says that it may.
        for _ in range(3):
            try:
                run_job(
                    self.location(address),
                    CUSTOM_JOB,
                    lambda: self.body(name),
                    resources,
                    step="train",
                    on_response=end_after_four,
                )
                return
            except InterruptedRunError:
                continue

    def tune(self, address, name):
        request = read_hyperparameters(FieldsReader(SEARCH_SPACE, "", where=""))
        spec = self.body(name)["jobSpec"]
        body = tuning_job(name, spec, request, job_label=name, labels={})
        self.jobs(address).submit("HyperparameterTuningJob", body)

    def schedules(self):
        return self.jobs(self.server.address)

    def named(self, name):
        def of(collection):
            return [found for found in self.server.created(collection) if found.display_name == name]

        jobs = [
            (job.name, job.state.name in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"))
            for collection in ("customJobs", "hyperparameterTuningJobs")
            for job in of(collection)
        ]
        return jobs, [schedule.name for schedule in of("schedules")]


def in_threads(call, arguments, clients):
    """Runs a call in several threads; returns the seconds and the exceptions of each."""
    outcomes = []

    def run():
        started, error = time.monotonic(), None
        try:
            call(*arguments)
        except BaseException as raised:
            error = raised
        outcomes.append((time.monotonic() - started, error))

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def check_episode(platform, verb, name, outcomes, counts):
    """Returns the number of calls that succeeded, after checking the promises."""
    for seconds, error in outcomes:
        if error is not None and not isinstance(error, PipelineError):
            raise AssertionError("".join(traceback.format_exception(error)))
        limit = CALL_SECONDS * (4 if verb == "follow" else 1)
        assert seconds < limit, (verb, seconds, error)
    succeeded = sum(error is None for _, error in outcomes)
    runs, schedules = platform.named(name)
    active = [identifier for identifier, is_active in runs if is_active]
    if verb != "follow":
        # A call that failed may leave one more, and says so.
        reported = sum("created" in error.problem for _, error in outcomes if error is not None)
        existing = len(active) + len(schedules)
        assert existing <= (succeeded > 0) + reported, (verb, name, runs, schedules, outcomes)
        assert existing >= (succeeded > 0), (verb, name, runs, schedules, outcomes)
        counts["left for the next command to end"] += max(0, existing - 1)
    jobs = platform.jobs(platform.server.address)
    # Whatever exists is reported, and the same command without faults leaves one.
    if runs:
        described = jobs.describe(name)
        names = {described.name, *(other["name"] for other in described.details.get("same_id", ()))}
        assert names == {identifier for identifier, _ in runs}
    listed = {schedule.resource for schedule in platform.schedules().list_schedules()}
    assert set(schedules) <= listed
    if verb in ("submit", "schedule", "tune"):
        getattr(platform, verb)(platform.server.address, name)
        runs, schedules = platform.named(name)
        assert sum(is_active for _, is_active in runs) + len(schedules) == 1
    if runs:
        jobs.cancel(name)
        assert not any(is_active for _, is_active in platform.named(name)[0])
    else:
        with pytest.raises(MissingInputError):
            jobs.describe(name)
    return succeeded


def inject(folder, count, seed, *, clock_hours=1.0):
    """Injects faults into random calls and checks the promises after each; returns the figures."""
    rng = random.Random(seed)  # noqa: S311 - not for cryptography
    faults = RandomFaults(rng, count)
    (folder / "pipeline.yaml").write_text(SPEC)
    figures = Counter()
    longest = 0.0
    with (
        start_kubeflow_server(folder / "kubeflow") as kubeflow,
        start_vertex_server(folder / "vertex") as vertex,
        start_fault_proxy(kubeflow.address, faults) as kubeflow_proxy,
        start_fault_proxy(vertex.address, faults) as vertex_proxy,
    ):

        def skewed():
            return datetime.now(UTC) + timedelta(hours=rng.uniform(-clock_hours, clock_hours))

        kubeflow.clock = vertex.clock = skewed
        platforms = [(Kubeflow(kubeflow, folder / "pipeline.yaml"), kubeflow_proxy)]
        platforms.append((Vertex(vertex, folder), vertex_proxy))
        episode = 0
        while faults.remaining:
            platform, proxy = platforms[episode % 2]
            verb = rng.choice(("submit", "submit", "schedule", "follow", *platform.more_verbs))
            clients = 1 if verb == "follow" else rng.choice((1, 2, 3, 5))
            name = f"{verb}-{episode}"
            faults.share = rng.choice((0.05, 0.15, 0.4))
            outcomes = in_threads(getattr(platform, verb), (proxy.address, name), clients)
            faults.share = 0.0
            succeeded = check_episode(platform, verb, name, outcomes, figures)
            figures.update({verb: clients, "calls": clients, "succeeded": succeeded})
            longest = max(longest, *(seconds for seconds, _ in outcomes))
            episode += 1
    return {**figures, "faults": dict(faults.injected), "longest_seconds": round(longest, 2)}


@pytest.fixture
def limits(monkeypatch):
    for (module, name), value in LIMITS.items():
        monkeypatch.setattr(module, name, value)


def test_random_faults_neither_double_nor_lose_a_submission(tmp_path, limits):
    print(inject(tmp_path, 40, seed=1))


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_a_thousand_random_faults_neither_double_nor_lose_a_submission(tmp_path, limits, seed):
    """A quarter of them each, so that a part can be run alone."""
    print(inject(tmp_path, 250, seed=seed))
