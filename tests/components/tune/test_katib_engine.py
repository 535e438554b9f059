import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import (
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.katib import Experiment
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import TuningSpec
from imgpipe.components.tune.engines.katib import KatibSearch
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.katib_component import tune
from imgpipe.components.tune.search_space import read_request
from imgpipe.components.tune.trials import FAILED, SUCCEEDED, best_trial
from tests.servers.katib import start_katib_server
from tests.servers.kubeflow import kubeconfig, use_kubeconfig

from .synthetic import STEPS

COMMAND = ("python", "-m", "tests.components.tune.remote_synthetic")


@pytest.fixture
def server(tmp_path):
    with start_katib_server(tmp_path) as held:
        yield held


@pytest.fixture
def search(server, coloured_dataset, tmp_path, monkeypatch):
    """``search(katib={...}, **tune_arguments)`` returns a search on a small dataset."""
    use_kubeconfig(monkeypatch, tmp_path, server)
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)

    def make(command=COMMAND, training=None, katib=None, location="", **settings):
        settings = {
            "tune": "initial_learning_rate=log:0.001:0.2",
            "max_trials": 6,
            "max_parallel_trials": min(3, settings.get("max_trials", 3)),
            **settings,
        }
        spec = TuningSpec(
            request=read_request(TuneArguments(**settings)),
            tuning=TuneArguments(**settings),
            training=training
            or TrainingArguments(
                max_steps=STEPS, train_steps_per_eval=10, model_type="resnet-18", weights="none"
            ),
            dataset=dataset,
            manifest=read_manifest(dataset),
            job_dir=tmp_path / "job",
        )
        return KatibSearch(
            spec,
            parse_location(location or tmp_path / "job"),
            KatibArguments(**{"katib_namespace": "team", **(katib or {})}),
            TrialPodArguments("imgpipe-train-cpu:1", "imgpipe-storage"),
            command=command,
            first_pause=0.1,
        )

    return make


def only_experiment(server):
    [found] = server.katib_experiments.values()
    return found


def pod_of(server):
    return only_experiment(server)["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]


def test_katib_runs_six_trials_and_their_results_are_read(server, search, tmp_path):
    seen = []
    trials = search(tune="initial_learning_rate=log:0.0001:0.5").run(lambda now: seen.append(len(now)))
    assert [trial.id for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert {trial.state for trial in trials} == {SUCCEEDED}
    names = sorted(
        server.katib_trials, key=lambda name: server.katib_trials[name]["metadata"]["creationTimestamp"]
    )
    for trial, name in zip(trials, names, strict=True):
        assert 0.0001 <= trial.values["initial_learning_rate"] <= 0.5
        assert trial.evaluations[0]["loss"] > 0
        assert trial.model == str(tmp_path / "job" / "model" / f"trial_{name}")
        assert Path(trial.model, "saved_model.pb").read_text() == str(trial.values["initial_learning_rate"])
        assert trial.started <= trial.ended
    best = best_trial(trials)
    assert best.objective == max(trial.objective for trial in trials)
    assert seen[-1] == 6


def test_medianstop_stops_trials_of_a_small_search_and_gives_the_numbers(server, search):
    # The first value of this seed is good.
    server.seed = 5
    made = search(tune="initial_learning_rate=log:0.0001:0.5", max_trials=4, max_parallel_trials=1)
    trials = made.run(lambda _: None)
    stopped = [trial for trial in trials if trial.stop_reason]
    assert stopped
    for trial in stopped:
        assert trial.steps < STEPS
        value, mean = map(
            float,
            re.search(
                r"top_1_accuracy ([\d.]+) at evaluation 1 is below ([\d.]+)", trial.stop_reason
            ).groups(),
        )
        assert value < mean
        # The model of its best evaluation was measured nevertheless.
        assert trial.objective == trial.best_so_far
    assert all(trial.steps == STEPS for trial in trials if not trial.stop_reason)


def test_without_early_stopping_every_trial_runs_all_steps(server, search):
    trials = search(trial_early_stopping="off", max_trials=3).run(lambda _: None)
    assert [trial.steps for trial in trials] == [STEPS] * 3
    assert "earlyStopping" not in only_experiment(server)["spec"]


def test_the_collector_counts_every_evaluation_once_and_in_order(server, search):
    search(trial_early_stopping="off", max_trials=2).run(lambda _: None)
    for trial in server.katib_trials.values():
        assert len(trial["collected"]) == STEPS / 10
        assert trial["collected"] == sorted(trial["collected"])


def test_the_experiment_has_all_arguments(server, search):
    made = search(
        max_failed_trials=2,
        max_trials=3,
        seed=7,
        katib={
            "trial_cpu": "6",
            "trial_memory": "22G",
            "trial_accelerator_type": "nvidia.com/gpu",
            "trial_accelerator_count": 1,
            "trial_node_selector": '{"cloud.google.com/gke-accelerator": "nvidia-l4"}',
            "trial_tolerations": '[{"key": "nvidia.com/gpu", "operator": "Exists"}]',
            "trial_service_account": "trainer",
        },
        search_algorithm="random",
    )
    made.run(lambda _: None)
    spec = only_experiment(server)["spec"]
    counts = ("maxTrialCount", "parallelTrialCount", "maxFailedTrialCount")
    assert [spec[name] for name in counts] == [3, 3, 2]
    assert spec["objective"]["objectiveMetricName"] == "top_1_accuracy"
    assert spec["objective"]["type"] == "maximize"
    assert spec["algorithm"] == {
        "algorithmName": "random",
        "algorithmSettings": [{"name": "random_state", "value": "7"}],
    }
    assert spec["metricsCollectorSpec"]["collector"] == {"kind": "StdOut"}
    assert spec["resumePolicy"] == "Never"
    pod = pod_of(server)
    [container] = pod["containers"]
    assert container["image"] == "imgpipe-train-cpu:1"
    assert container["resources"] == {
        "requests": {"cpu": "6", "memory": "22G"},
        "limits": {"nvidia.com/gpu": "1"},
    }
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["serviceAccountName"] == "trainer"
    assert {"name": "storage", "secret": {"secretName": "imgpipe-storage", "optional": True}} in pod[
        "volumes"
    ]
    line = container["command"][2]
    assert line.count("--initial_learning_rate=") == 1
    assert f"--max_steps={STEPS}" in line


@pytest.mark.parametrize(
    ("tune", "algorithm", "space"),
    [
        ("weight_decay=log:1e-6:1e-2", "tpe", {"min": "1e-06", "max": "0.01", "distribution": "logUniform"}),
        ("label_smoothing=linear:0:0.5", "tpe", {"min": "0", "max": "0.5"}),
        ("warmup_steps=0:30", "tpe", {"min": "0", "max": "30", "step": "1"}),
        ("train_batch_size=16,32", "grid", {"list": ["16", "32"]}),
        ("optimizer_type=momentum,adam", "grid", {"list": ["momentum", "adam"]}),
        (
            "label_smoothing=reverse-log:0.1:0.5",
            "tpe",
            {"min": "0.1", "max": "0.5", "distribution": "logUniform"},
        ),
    ],
)
def test_every_kind_of_parameter_is_translated(search, tune, algorithm, space):
    made = search(tune=tune, search_algorithm="grid" if algorithm == "grid" else "bayesian")
    spec = made.body("e")["spec"]
    assert spec["algorithm"]["algorithmName"] == algorithm
    [parameter] = spec["parameters"]
    assert parameter["feasibleSpace"] == space
    if algorithm == "grid":
        # With more trials than points in the grid, Katib fails.
        assert spec["maxTrialCount"] == spec["parallelTrialCount"] == 2


def test_of_a_reverse_logarithmic_scale_the_mirror_image_is_searched(server, search):
    trials = search(
        tune="label_smoothing=reverse-log:0.1:0.5; initial_learning_rate=log:0.01:0.02", max_trials=2
    ).run(lambda _: None)
    given = {
        float(assignment["value"])
        for trial in server.katib_trials.values()
        for assignment in trial["spec"]["parameterAssignments"]
        if assignment["name"] == "label_smoothing"
    }
    assert {round(0.6 - trial.values["label_smoothing"], 9) for trial in trials} == {
        round(value, 9) for value in given
    }
    assert "--reversed_values=label_smoothing:0.1:0.5" in pod_of(server)["containers"][0]["command"][2]


def test_a_restarted_step_follows_the_same_experiment(server, search):
    first = search()
    thread = threading.Thread(target=lambda: first.run(lambda _: None), daemon=True)
    thread.start()
    while not server.katib_trials:
        time.sleep(0.02)
    again = search().run(lambda _: None)
    thread.join()
    # Also after the experiment has ended.
    once_more = search().run(lambda _: None)
    assert server.katib_writes == ["POST"]
    assert [trial.values for trial in again] == [trial.values for trial in once_more]
    with pytest.raises(InvalidArgumentError, match="this job_dir was used for another search"):
        search(max_trials=4).run(lambda _: None)


def test_too_many_failed_trials_end_the_search_with_the_last_reason(search, monkeypatch):
    monkeypatch.setenv("FAIL_ABOVE", "0.0001")
    seen = {}
    with pytest.raises(InternalError, match=r"2 of . trials failed.*it crashed, as planned") as caught:
        search(max_failed_trials=2, max_parallel_trials=1).run(lambda now: seen.update(trials=now))
    assert "experiment team/imgpipe-tune-" in caught.value.where
    failed = [trial for trial in seen["trials"] if trial.state == FAILED]
    assert len(failed) == 2
    assert failed[0].exit_code == 70
    assert any("RuntimeError: it crashed, as planned" in line for line in failed[0].last_lines)


def test_a_namespace_without_katibs_label_is_given_as_the_reason(server, search):
    server.collects = False
    with pytest.raises(PipelineError, match="metrics-collector-injection=enabled"):
        search(max_failed_trials=1, max_trials=1).run(lambda _: None)


def test_a_short_outage_of_the_cluster_does_not_end_the_search(server, search):
    made = search(max_trials=2)

    def report(_):
        server.faults += [503, 429]

    assert len(made.run(report)) == 2
    assert server.katib_writes == ["POST"]


def test_a_rejected_request_names_the_missing_rights(search):
    with pytest.raises(UnavailableError, match=r"403 experiments.kubeflow.org is forbidden") as caught:
        search(katib={"katib_namespace": "forbidden"}).run(lambda _: None)
    assert "check that Katib is installed" in caught.value.remedy


def test_deleting_the_experiment_ends_the_step(server, search):
    def report(_):
        for name in list(server.katib_experiments):
            Experiment(connect("test", "team"), name).delete()

    with pytest.raises(InterruptedRunError, match="was deleted while it ran"):
        search().run(report)


def test_values_that_would_break_the_command_are_rejected(search):
    with pytest.raises(InvalidArgumentError, match="Katib cannot insert the value"):
        search(tune="optimizer_arguments=momentum=0.9,it's").run(lambda _: None)


# What a signal leaves behind that arrives after the connection pool's lock was acquired and before the block
# that releases it.
LOCK_STAYS_HELD = """
def hold_lock(self, search, reporter):
    while not search.trials():
        time.sleep(0.05)
    pools = search._cluster.api_client.rest_client.pool_manager.pools
    pools[next(iter(pools.keys()))].pool.mutex.acquire()
    print("the lock is held", flush=True)
    time.sleep(60)
KatibSearch._follow = hold_lock
"""


@pytest.mark.parametrize("prelude", ["", LOCK_STAYS_HELD], ids=["", "a-lock-stays-held"])
def test_sigterm_deletes_the_experiment_and_its_trials(prelude, server, coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)
    code = f"""
import time
from pathlib import Path
from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.step import run_command
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines.engine import TuningSpec
from imgpipe.components.tune.engines.katib import KatibSearch
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.katib_component import tune
from imgpipe.components.tune.search_space import read_request
from imgpipe.components.storage import parse_location
{prelude}
tuning = TuneArguments(tune="initial_learning_rate=log:0.001:0.2", max_trials=20)
data = Path({str(dataset)!r})
training = TrainingArguments(max_steps=40, train_steps_per_eval=10, model_type="resnet-18", weights="none")
spec = TuningSpec(read_request(tuning), tuning, training, data, read_manifest(data), Path({str(tmp_path)!r}))
job_dir = parse_location({str(tmp_path / "job")!r})
search = KatibSearch(spec, job_dir, KatibArguments(), TrialPodArguments("image"),
    command={COMMAND!r}, first_pause=0.1)
run_command("tune", lambda: search.run(lambda _: None))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KUBECONFIG": kubeconfig(tmp_path, server)},
        cwd=Path(__file__).parents[3],
    )
    deadline = time.monotonic() + 60
    while not server.processes:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    if prelude:
        assert any("the lock is held" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert server.katib_writes == ["POST", "DELETE"]
    assert not server.katib_trials
    while any(trial.poll() is None for trial in server.processes.values()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_trials_exchange_data_and_models_through_cloud_storage(server, search, cloud):
    trials = search(location="gs://photos/tuned", max_trials=2).run(lambda _: None)
    assert {trial.state for trial in trials} == {SUCCEEDED}
    for trial in trials:
        assert trial.model.startswith("gs://photos/tuned/model/trial_imgpipe-tune-")
        assert trial.objective > 0
        assert len(trial.evaluations) == STEPS / 10
    names = cloud.contents("tuned/")
    assert sum(name.startswith("data/") and "train-" in name for name in names) == 1
    assert any(name.endswith("/labels.txt") for name in names)


@pytest.mark.proof
def test_real_trainings_are_tuned_with_the_real_command(search, tmp_path):
    training = TrainingArguments(
        max_steps=4,
        train_batch_size=4,
        model_type="resnet-18",
        weights="none",
        image_size=32,
        train_steps_per_eval=1,
    )
    made = search(
        command=("python", "-m", "imgpipe.components.tune.remote_trial"),
        training=training,
        max_trials=2,
        max_parallel_trials=1,
        trial_early_stopping="off",
        tune="initial_learning_rate=log:0.001:0.01; train_batch_size=2,4",
    )
    trials = made.run(lambda _: None)
    assert [trial.state for trial in trials] == [SUCCEEDED] * 2, trials
    for trial in trials:
        provenance = json.loads(Path(trial.model, "provenance.json").read_text())
        assert provenance["arguments"]["train_batch_size"] == trial.values["train_batch_size"]
        assert trial.objective is not None
        assert [evaluation["step"] for evaluation in trial.evaluations] == [1, 2, 3, 4]


class Artifact:
    """An artifact as KFP passes it to a step."""

    def __init__(self, path):
        self.path, self.metadata, self.logged = str(path), {}, {}

    def log_metric(self, name, value):
        self.logged[name] = value


@pytest.mark.proof
def test_the_step_on_kubeflow_outputs_the_best_trials_model(
    server, coloured_dataset, cloud, tmp_path, monkeypatch
):
    use_kubeconfig(monkeypatch, tmp_path, server)
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)
    outputs = [Artifact(tmp_path / "out" / name) for name in ("model", "metrics", "report", "trials")]
    (tmp_path / "out").mkdir()
    settings = {"max_steps": 2, "train_batch_size": 4, "train_steps_per_eval": 1, "image_size": 32}
    tune(
        Artifact(dataset),
        *outputs,
        TuneArguments(tune="initial_learning_rate=log:0.001:0.01", max_trials=1, job_dir="gs://photos/tuned"),
        TrainingArguments(model_type="resnet-18", weights="none", **settings),
        KatibArguments(tune_engine="katib"),
        TrialPodArguments("image", "imgpipe-storage"),
    )
    model, metrics, report, trials = outputs
    found = cloud.contents("tuned/")
    listed = json.loads(Path(trials.path, "trials.json").read_text())
    assert listed == json.loads(found["trials.json"])
    [trial] = listed["trials"]
    location = trial["builtInAlgorithmOutput"]["modelPath"]
    assert location.startswith("gs://photos/tuned/model/trial_imgpipe-tune-")
    name = location.removeprefix("gs://photos/tuned/")
    trial_name = name.rpartition("trial_")[2]
    assert any(path.startswith(f"trials/{trial_name}/checkpoints/") for path in found)
    served = Path(model.path, "saved_model.pb").read_bytes()
    assert served == found[f"{name}/saved_model.pb"]
    assert Path(model.path, "variables", "variables.index").is_file()
    assert metrics.logged["trials"] == 1
    assert metrics.logged["top_1_accuracy"] == trial["finalMetric"]["objectiveValue"]
    assert Path(report.path).read_text().startswith("<!DOCTYPE html>")
    assert server.katib_writes == ["POST"]
