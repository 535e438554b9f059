"""Random faults while a step follows a search or a job: requests, pods and the step itself."""

import json
import random
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgpipe.components.common.errors import InterruptedRunError, InvalidResponseError
from imgpipe.components.platforms import polling
from imgpipe.components.platforms.kubernetes import workflow
from imgpipe.components.platforms.vertex.client import VertexLocation
from imgpipe.components.platforms.vertex.job_requests import JOB_LABEL, REQUEST_LABEL
from imgpipe.components.platforms.vertex.jobs import CUSTOM_JOB, run_job, state_of
from imgpipe.components.storage import parse_location
from imgpipe.components.tune.engines.katib import KatibSearch
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.trials import FAILED, RUNNING, best_trial
from tests.servers.faults import Fault, start_fault_proxy
from tests.servers.katib import has_condition, start_katib_server
from tests.servers.kubeflow import use_kubeconfig
from tests.servers.vertex import STATES, start_vertex_server

from .synthetic import tuning_spec

COMMAND = (sys.executable, "-S", str(Path(__file__).with_name("quick_trial.py")))
PARENT = "projects/flowers-project/locations/us-central1"
PIPELINE_RUN = f"{PARENT}/pipelineJobs/run-1"
# Of one search or job, its restarts included.
DEADLINE_SECONDS = 60


class Terminated(BaseException):
    """What SIGTERM raises in a step."""


@contextmanager
def short_pauses(monkeypatch):
    """Shortens the pauses of the polling loop and of the client's retries."""
    sleep = time.sleep
    with monkeypatch.context() as patch:
        patch.setattr(polling.time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
        yield


class Faults:
    """Draws faults, and counts them by kind."""

    def __init__(self, seed):
        self.generator = random.Random(seed)  # noqa: S311 - not a secret
        self.counts = Counter()

    def draw(self, kind, probability):
        """Returns whether the fault happens now."""
        happens = self.generator.random() < probability
        self.counts[kind] += happens
        return happens


def follow_a_search(server, responses, dataset, folder, faults):
    """Follows one search to its end, through all faults; checks that no trial is lost or counted twice.

    The proxy in front of the server breaks the next responses as ``responses`` says.
    """
    spec = tuning_spec(
        dataset,
        folder,
        tune="initial_learning_rate=log:0.0001:0.5",
        max_trials=8,
        max_parallel_trials=4,
        max_failed_trials=8,
        seed=faults.generator.randrange(1000),
    )
    deadline = time.monotonic() + DEADLINE_SECONDS

    def report(trials):
        assert time.monotonic() < deadline
        assert len({trial.id for trial in trials}) == len(trials)
        responses.extend(
            Fault(faults.generator.choice(("page", "null", "broken", "reset")), executed=True)
            for _ in range(2)
            if faults.draw("broken response", 0.3)
        )
        with server.lock:
            server.faults += [
                faults.generator.choice((429, 500, 502, 503, 504))
                for _ in range(3)
                if faults.draw("request", 0.5)
            ]
            running = [name for name, process in list(server.processes.items()) if process.poll() is None]
            victims = [name for name in running if name in server.katib_trials and server._pods_of(name)]
            if victims and faults.draw("evicted trial", 0.2):
                server.evict(faults.generator.choice(victims))
            elif victims and faults.draw("killed trial", 0.2):
                server.kill_training(faults.generator.choice(victims))
        if faults.draw("evicted step", 0.2):
            raise Terminated

    while True:
        search = KatibSearch(
            spec,
            parse_location(folder),
            KatibArguments(katib_namespace="team"),
            TrialPodArguments("image"),
            command=COMMAND,
        )
        try:
            trials = search.run(report)
            break
        # A broken response at its start ends the step; one while it follows the search would delete that.
        except (Terminated, InvalidResponseError):
            assert time.monotonic() < deadline
    names = sorted(
        name for name in server.katib_trials if name.startswith(list(server.katib_experiments)[-1])
    )
    assert [trial.id for trial in trials] == list(range(1, 9))
    assert len(names) == 8
    assert all(trial.state != RUNNING for trial in trials)
    for trial in trials:
        if trial.model:
            assert (
                float(Path(trial.model, "saved_model.pb").read_text())
                == trial.values["initial_learning_rate"]
            )
    models = [Path(trial.model).name.removeprefix("trial_") for trial in trials if trial.model]
    assert len(set(models)) == len(models)
    assert set(models) <= set(names)
    failed = sum(has_condition(server.katib_trials[name], "Failed") for name in names)
    assert failed == sum(trial.state == FAILED for trial in trials)
    assert best_trial(trials) is not None or failed == 8


def follow_a_job(server, folder, faults, capsys):
    """Follows one job to its end, through all faults, and checks that no second one was created."""
    location = VertexLocation("flowers-project", "us-central1", endpoint=server.address)
    name = f"job-{len(server.created('customJobs'))}"
    labels = {JOB_LABEL: name, REQUEST_LABEL: name}
    body = {"displayName": name, "labels": labels, "jobSpec": {"workerPoolSpecs": []}}
    deadline = time.monotonic() + DEADLINE_SECONDS
    is_cancelled = faults.generator.random() < 0.2
    run = server.resources[PIPELINE_RUN]
    run.state = type(run.state).PIPELINE_STATE_RUNNING
    before = len(server.created("customJobs"))
    polls = 0

    def on_response(job):
        nonlocal polls
        polls += 1
        assert time.monotonic() < deadline
        with server.lock:
            server.forced_responses += [
                (faults.generator.choice((429, 500, 502, 503, 504)), "not now")
                for _ in range(2)
                if faults.draw("request", 0.4)
            ]
            if polls > 6:
                server.resources[job.name].state = STATES.JOB_STATE_SUCCEEDED
        if is_cancelled and polls > 3:
            server.forced_responses.clear()
            run.state = type(run.state).PIPELINE_STATE_CANCELLING
            faults.draw("cancelled run", 1.0)
            raise Terminated
        if faults.draw("evicted step", 0.2):
            if faults.draw("lost gcp_resources", 0.3):
                (folder / name).unlink(missing_ok=True)
            raise Terminated

    while True:
        try:
            job = run_job(
                location,
                CUSTOM_JOB,
                lambda: body,
                folder / name,
                step="train",
                pipeline_run=PIPELINE_RUN,
                on_response=on_response,
            )
            break
        except Terminated:
            text = capsys.readouterr().out
            [job] = server.created("customJobs")[before:]
            if state_of(job) == "CANCELLED":
                assert is_cancelled
                assert "job_cancelled" in text
                break
            # A job that is left running is reported.
            assert "job_left_running" in text
            assert job.name in text
        except InterruptedRunError:
            assert time.monotonic() < deadline
    assert len(server.created("customJobs")) == before + 1
    assert state_of(server.created("customJobs")[-1]) == ("CANCELLED" if is_cancelled else "SUCCEEDED")


def run_faults(number, tmp_path, monkeypatch, coloured_dataset, capsys, seed=20):
    """Injects at least ``number`` faults, half into searches and half into jobs; returns the counts."""
    searches, jobs = Faults(seed), Faults(seed + 1)
    # Those of TensorFlow and of other tests of this process stay.
    threads = threading.active_count()
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)
    # The step is not in a pod.
    monkeypatch.setattr(workflow, "own_stop_reason", lambda: "")
    responses = []

    def choose(method, path):
        return responses.pop() if method == "GET" and responses else None

    with (
        start_katib_server(tmp_path) as server,
        start_fault_proxy(server.address, choose) as proxy,
        short_pauses(monkeypatch),
    ):
        use_kubeconfig(monkeypatch, tmp_path, proxy)
        while searches.counts.total() < number / 2:
            folder = tmp_path / f"search-{searches.counts.total()}"
            follow_a_search(server, responses, dataset, folder, searches)
        assert server.katib_writes == ["POST"] * len(server.katib_experiments)
    with start_vertex_server(tmp_path) as server, short_pauses(monkeypatch):
        from google.cloud import aiplatform_v1

        server.resources[PIPELINE_RUN] = aiplatform_v1.PipelineJob(name=PIPELINE_RUN)
        while jobs.counts.total() < number / 2:
            follow_a_job(server, tmp_path, jobs, capsys)
    assert threading.active_count() < threads + 50
    return {"search": searches.counts, "job": jobs.counts}


def test_faults_lose_no_trial_and_leave_no_job_unreported(tmp_path, monkeypatch, coloured_dataset, capsys):
    run_faults(30, tmp_path, monkeypatch, coloured_dataset, capsys)


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [22, 24, 26, 28])
def test_1000_faults_lose_no_trial_and_leave_no_job_unreported(
    seed, tmp_path, monkeypatch, coloured_dataset, capsys
):
    """A quarter of them each, so that a part can be run alone."""
    counts = run_faults(250, tmp_path, monkeypatch, coloured_dataset, capsys, seed)
    with capsys.disabled():
        print(json.dumps(counts))
