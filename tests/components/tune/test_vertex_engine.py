import threading
import time

import pytest

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.platforms import polling
from imgpipe.components.tune.engines.vertex import VertexSearch
from imgpipe.components.tune.trials import SUCCEEDED, best_trial
from tests.servers.vertex_tuning import start_tuning_server
from tests.waiting import wait_until

from .synthetic import REMOTE_COMMAND, STEPS, check_real_training, tuning_spec


@pytest.fixture
def server(tmp_path):
    with start_tuning_server(tmp_path) as held:
        yield held


@pytest.fixture
def search(server, coloured_dataset, tmp_path, monkeypatch):
    """``search(**tune arguments)`` returns a search on a small data set."""
    monkeypatch.setattr(polling, "FIRST_PAUSE_SECONDS", 0.1)
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)

    def make(command=REMOTE_COMMAND, job=None, **settings):
        (tmp_path / "job").mkdir(exist_ok=True)
        return VertexSearch(
            tuning_spec(dataset, tmp_path / "job", **settings),
            CustomJobArguments(vertex_endpoint=server.address, **(job or {})),
            RunArguments(
                project="p", region="us-central1", images='{"cpu": "imgpipe-train-cpu:1", "gpu": "g:1"}'
            ),
            tmp_path / "gcp_resources",
            command=command,
        )

    return make


def test_vertex_ai_runs_six_trials_and_their_results_are_read_back(server, search, tmp_path):
    seen = []
    trials = search(tune="initial_learning_rate=log:0.0001:0.5").run(lambda now: seen.append(len(now)))
    assert [trial.id for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert {trial.state for trial in trials} == {SUCCEEDED}
    for trial in trials:
        assert 0.0001 <= trial.values["initial_learning_rate"] <= 0.5
        assert trial.evaluations[0]["loss"] > 0
        assert trial.model == str(tmp_path / "job" / "model" / f"trial_{trial.id}")
        assert trial.stop_reason == "" or trial.steps < STEPS
    stopped = [trial for trial in trials if trial.stop_reason]
    assert stopped
    assert "Vertex AI's median rule stopped it at step" in stopped[0].stop_reason
    best = best_trial(trials)
    assert best.objective == max(trial.objective for trial in trials)
    assert seen[-1] == 6
    [job] = server.created("hyperparameterTuningJobs")
    assert job.name in (tmp_path / "gcp_resources").read_text()


def test_the_request_has_all_settings(server, search):
    made = search(
        max_failed_trials=2,
        job={
            "train_machine_type": "g2-standard-8",
            "train_strategy": "spot",
            "service_account": "trainer@p.iam.gserviceaccount.com",
            "network": "projects/1/global/networks/n",
            "encryption_key": "projects/p/locations/us-central1/keyRings/k/cryptoKeys/c",
            "labels": '{"team": "flowers"}',
        },
    )
    made.run(lambda _: None)
    [job] = server.created("hyperparameterTuningJobs")
    assert (job.max_trial_count, job.parallel_trial_count, job.max_failed_trial_count) == (6, 3, 2)
    assert "median_automated_stopping_spec" in job.study_spec
    spec = job.trial_job_spec
    assert spec.worker_pool_specs[0].machine_spec.machine_type == "g2-standard-8"
    assert spec.worker_pool_specs[0].container_spec.image_uri == "g:1"
    assert spec.scheduling.strategy.name == "SPOT"
    assert spec.service_account == "trainer@p.iam.gserviceaccount.com"
    assert spec.network == "projects/1/global/networks/n"
    assert job.encryption_spec.kms_key_name.endswith("cryptoKeys/c")
    assert job.labels["team"] == "flowers"
    args = list(spec.worker_pool_specs[0].container_spec.args)
    assert not any("initial_learning_rate" in arg for arg in args)
    assert f"--max_steps={STEPS}" in args


def test_a_restarted_step_follows_the_same_job(server, search, tmp_path):
    first = search()
    thread = threading.Thread(target=lambda: first.run(lambda _: None), daemon=True)
    thread.start()
    while not (tmp_path / "gcp_resources").exists():
        time.sleep(0.02)
    again = search().run(lambda _: None)
    (tmp_path / "gcp_resources").unlink()
    # Also if it was killed before it wrote the job's name.
    once_more = search().run(lambda _: None)
    thread.join()
    assert len(server.created("hyperparameterTuningJobs")) == 1
    assert [trial.values for trial in again] == [trial.values for trial in once_more]


def test_too_many_failed_trials_end_the_job(search, monkeypatch):
    monkeypatch.setenv("FAIL_ABOVE", "0.0001")
    with pytest.raises(PipelineError, match="exit status 70"):
        search(max_failed_trials=2).run(lambda _: None)


def test_ctrl_c_cancels_the_job(server, search):
    def report(trials):
        if any(trial.evaluations for trial in trials):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search().run(report)
    [job] = server.created("hyperparameterTuningJobs")
    assert job.state.name == "JOB_STATE_CANCELLED"
    wait_until(lambda: all(process.poll() is not None for process in server.processes.values()))


@pytest.mark.proof
def test_the_real_command_tunes_real_training(search):
    check_real_training(search)
