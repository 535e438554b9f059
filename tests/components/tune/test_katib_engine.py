import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from kfp import dsl

from imgpipe.components.common.dataset import read_manifest, with_absolute_paths
from imgpipe.components.common.errors import (
    CheckFailedError,
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.platforms import polling
from imgpipe.components.platforms.kubernetes import katib
from imgpipe.components.platforms.kubernetes.access import CANCELLATION_NEEDS, KATIB_NEEDS
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.katib import Experiment
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.engines import katib_watch
from imgpipe.components.tune.engines.katib import KatibSearch
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.katib_component import tune
from imgpipe.components.tune.trials import FAILED, SUCCEEDED, best_trial
from tests.servers.katib import IMAGE_USER, SETTINGS, refused_settings, start_katib_server
from tests.servers.kubeflow import kubeconfig, use_kubeconfig
from tests.waiting import wait_until

from .synthetic import REMOTE_COMMAND, STEPS, check_real_training, tuning_spec


@pytest.fixture
def server(tmp_path):
    with start_katib_server(tmp_path) as held:
        yield held


@pytest.fixture
def search(server, coloured_dataset, tmp_path, monkeypatch):
    """``search(katib={...}, **tune_arguments)`` returns a search on a small dataset."""
    use_kubeconfig(monkeypatch, tmp_path, server)
    monkeypatch.setattr(polling, "FIRST_PAUSE_SECONDS", 0.1)
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)

    def make(command=REMOTE_COMMAND, katib=None, location="", **settings):
        return KatibSearch(
            tuning_spec(dataset, tmp_path / "job", **settings),
            parse_location(location or tmp_path / "job"),
            KatibArguments(**{"katib_namespace": "team", **(katib or {})}),
            TrialPodArguments("imgpipe-train-cpu:1", "imgpipe-storage"),
            command=command,
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
                r"top_1_accuracy up to evaluation 1, ([\d.]+), is below ([\d.]+)", trial.stop_reason
            ).groups(),
        )
        assert value < mean
        # The model of its best evaluation was measured nevertheless.
        assert trial.objective == trial.best_so_far
    assert all(trial.steps == STEPS for trial in trials if not trial.stop_reason)


def test_without_early_stopping_every_trial_runs_all_steps_and_each_is_counted_once_in_order(server, search):
    trials = search(trial_early_stopping="off", max_trials=2).run(lambda _: None)
    assert [trial.steps for trial in trials] == [STEPS] * 2
    assert "earlyStopping" not in only_experiment(server)["spec"]
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
        "limits": {"cpu": "6", "memory": "22G", "nvidia.com/gpu": "1"},
    }
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert pod["serviceAccountName"] == "trainer"
    # Its log is read by the step.
    assert {"name": "IMGPIPE_LOG_FORMAT", "value": "json"} in container["env"]
    # Katib's collector runs as the same user.
    assert pod["securityContext"]["runAsUser"] == IMAGE_USER
    assert {"name": "storage", "secret": {"secretName": "imgpipe-storage", "optional": True}} in pod[
        "volumes"
    ]
    line = container["command"][2]
    assert line.count("--initial_learning_rate=") == 1
    assert f"--max_steps={STEPS}" in line


def test_a_dollar_in_a_path_reaches_the_trials(search, tmp_path):
    """Kubernetes replaces $$ and $(NAME) in commands."""
    folder = tmp_path / "a$$b$(HOME)"
    [trial] = search(location=folder, max_trials=1).run(lambda _: None)
    assert trial.model.startswith(f"{folder}/")


def test_a_template_that_is_not_a_valid_job_is_refused(server, search):
    """validator.go, validatePatchJob: the cluster's Katib does not ignore a field that it does not know."""
    body = search().body("e")
    body["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["nodeSelectors"] = {}
    with pytest.raises(
        UnavailableError, match="unable to convert: /spec/template/spec/nodeSelectors"
    ) as caught:
        Experiment(connect("tune on", "team"), "e").create(body)
    assert "change what the message names" in caught.value.remedy


def test_an_experiment_names_its_run_which_is_not_a_part_of_its_request(search, monkeypatch):
    before = search().body("e")
    monkeypatch.setenv("IMGPIPE_RUN_ID", "run-1")
    body = search().body("e")
    assert body["metadata"]["labels"]["imgpipe/run"] == "run-1"
    assert body["metadata"]["annotations"] == before["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("tune", "algorithm", "space"),
    [
        (
            "weight_decay=log:1e-6:1e-2",
            "multivariate-tpe",
            {"min": "1e-06", "max": "0.01", "distribution": "logUniform"},
        ),
        ("label_smoothing=linear:0:0.5", "multivariate-tpe", {"min": "0", "max": "0.5"}),
        ("warmup_steps=0:30", "multivariate-tpe", {"min": "0", "max": "30", "step": "1"}),
        ("train_batch_size=16,32", "grid", {"list": ["16", "32"]}),
        ("optimizer_type=momentum,adam", "grid", {"list": ["momentum", "adam"]}),
        (
            "label_smoothing=reverse-log:0.1:0.5",
            "multivariate-tpe",
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


def test_a_namespace_without_katibs_label_is_rejected_with_the_command_that_adds_it(server, search):
    server.has_label = False
    with pytest.raises(UnavailableError, match="does not allow Katib to collect metrics") as caught:
        search().run(lambda _: None)
    command = "kubectl label namespace team katib.kubeflow.org/metrics-collector-injection=enabled"
    assert command in caught.value.remedy


def test_trials_whose_metrics_katib_does_not_find_fail(server, search):
    server.collects = False
    with pytest.raises(PipelineError, match="found no metrics in its output"):
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
    pools = search.cluster.api_client.rest_client.pool_manager.pools
    pools[next(iter(pools.keys()))].pool.mutex.acquire()
    print("the lock is held", flush=True)
    time.sleep(60)
KatibSearch._follow = hold_lock
"""
STEP_POD = {
    "metadata": {"name": "step-pod", "labels": {"workflows.argoproj.io/workflow": "run-1"}},
    "spec": {"containers": []},
    "status": {},
}
CANCELLED = {"metadata": {}, "spec": {"activeDeadlineSeconds": 0}}


@pytest.fixture
def step(server, coloured_dataset, tmp_path):
    """``step(prelude="", **tune_arguments)`` starts a process that runs the search as a step does."""
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)
    server.katib_pods["step-pod"] = STEP_POD
    server.workflows["run-1"] = {"metadata": {}, "spec": {}}

    def start(prelude="", **settings):
        settings = {"max_trials": 20, "max_parallel_trials": 1, **settings}
        code = f"""
import time
from pathlib import Path
from imgpipe.components.common.step import run_command
from imgpipe.components.platforms import polling
from imgpipe.components.storage import parse_location
from imgpipe.components.tune.engines.katib import KatibSearch
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.trials import write_trials
from tests.components.tune.synthetic import REMOTE_COMMAND, tuning_spec
polling.FIRST_PAUSE_SECONDS = 0.1
{prelude}
folder = Path({str(tmp_path)!r})
spec = tuning_spec(Path({str(dataset)!r}), folder, **{settings!r})
job_dir = parse_location(folder / "job")
search = KatibSearch(spec, job_dir, KatibArguments(), TrialPodArguments("image"), command=REMOTE_COMMAND)
run_command("tune", lambda: write_trials(folder / "trials.json", search.run(lambda _: None), extra={{}}))
"""
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "KUBECONFIG": kubeconfig(tmp_path, server), "KFP_POD_NAME": "step-pod"},
            cwd=Path(__file__).parents[3],
            # Background processes of a shell ignore Ctrl-C, and so would the tests.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    started = []
    yield lambda *arguments, **settings: started.append(start(*arguments, **settings)) or started[-1]
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("workflow", "prelude"),
    [
        (CANCELLED, ""),
        (CANCELLED, LOCK_STAYS_HELD),
        ({"metadata": {}, "spec": {"shutdown": "Terminate"}}, ""),
        ({"metadata": {"deletionTimestamp": "now"}, "spec": {}}, ""),
        (None, ""),
    ],
    ids=["cancelled", "cancelled-while-a-lock-is-held", "shut-down", "being-deleted", "deleted"],
)
def test_a_cancelled_run_deletes_the_experiment_and_its_trials(workflow, prelude, server, step):
    process = step(prelude)
    wait_until(lambda: server.processes)
    if prelude:
        assert any("the lock is held" in line for line in process.stdout)
    server.workflows["run-1"] = workflow
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert server.katib_writes == ["POST", "DELETE"]
    wait_until(lambda: not server.katib_trials)
    wait_until(lambda: all(trial.poll() is not None for trial in server.processes.values()))


@pytest.mark.parametrize("knows", [True, False], ids=["evicted", "unknown"])
def test_an_evicted_step_leaves_the_experiment_and_the_next_one_continues_to_follow_it(
    knows, server, step, tmp_path
):
    process = step(max_trials=3)
    wait_until(lambda: server.processes)
    if not knows:
        del server.katib_pods["step-pod"]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    [name] = server.katib_experiments
    assert f"To end it: kubectl delete experiment {name} --namespace=default" in output
    again = step(max_trials=3)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert server.katib_writes == ["POST"]
    assert len(json.loads((tmp_path / "trials.json").read_text())["trials"]) == 3


def test_ctrl_c_deletes_the_experiment_without_asking(server, step):
    process = step()
    wait_until(lambda: server.processes)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert server.katib_writes == ["POST", "DELETE"]


def test_a_search_of_20_trials_loses_none_when_its_follower_is_killed_ten_times(
    server, step, tmp_path, monkeypatch
):
    generator = random.Random(20)  # noqa: S311 - not a secret
    settings = {"max_trials": 20, "max_parallel_trials": 4}
    for number in range(10):
        process = step(**settings)
        started = len(server.katib_trials)
        with suppress(subprocess.TimeoutExpired):
            # From before the experiment exists to after several of its trials.
            process.wait(generator.uniform(0.3, 2.5))
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        process.communicate(timeout=60)
        assert len(server.katib_trials) >= started
    last = step(**settings)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert server.katib_writes == ["POST"]
    listed = json.loads((tmp_path / "trials.json").read_text())
    names = [
        trial["builtInAlgorithmOutput"]["modelPath"].rpartition("trial_")[2] for trial in listed["trials"]
    ]
    assert sorted(names) == sorted(server.katib_trials)
    assert len(names) == 20
    assert any(trial["isTrialStoppedEarly"] for trial in listed["trials"])
    # The best trial's model has the learning rate of that trial.
    best = listed["trials"][0]
    model = Path(best["builtInAlgorithmOutput"]["modelPath"], "saved_model.pb").read_text()
    assert float(model) == float(best["hyperparameters"]["initial_learning_rate"])
    assert best["finalMetric"]["objectiveValue"] == max(
        trial["finalMetric"]["objectiveValue"] for trial in listed["trials"]
    )


def test_settings_that_a_suggestion_service_refuses_are_reported_with_its_reason(search, monkeypatch):
    monkeypatch.delitem(SETTINGS["multivariate-tpe"], "n_startup_trials")
    message = "unknown setting n_startup_trials for algorithm multivariate-tpe"
    with pytest.raises(UnavailableError, match=message):
        search().run(lambda _: None)


def test_the_settings_of_every_algorithm_are_accepted(search):
    for algorithm in ("bayesian", "random", "grid"):
        made = search(search_algorithm=algorithm, tune="train_batch_size=16,32; optimizer_type=momentum,adam")
        assert refused_settings(made.body("e")["spec"]) == ""


def test_a_suggestion_service_that_does_not_start_ends_the_search(server, search):
    server.has_services = False
    with pytest.raises(
        UnavailableError, match=r"service has not started.*is not ready; it has no pod: a quota"
    ):
        search(trial_silence_limit=1).run(lambda _: None)
    assert server.katib_writes == ["POST", "DELETE"]


PULL_ERROR = {
    "phase": "Pending",
    "containerStatuses": [
        {
            "name": "trial",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        }
    ],
}
NO_NODE = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        }
    ],
}


@pytest.mark.parametrize(
    ("fault", "event_status", "reason"),
    [
        (PULL_ERROR, 403, "ImagePullBackOff: no such image"),
        (NO_NODE, 403, "Insufficient nvidia.com/gpu"),
        ("pods is forbidden: exceeded quota", 200, "exceeded quota"),
        ("pods is forbidden: exceeded quota", 403, "kubectl describe job imgpipe-tune-"),
    ],
    ids=["image", "node", "quota", "quota-without-events"],
)
def test_a_trial_that_cannot_start_ends_the_search_with_its_reason(
    fault, event_status, reason, server, search
):
    server.pod_faults, server.event_status = [fault], event_status
    with pytest.raises(UnavailableError, match="has not started after") as caught:
        search(max_trials=1, trial_silence_limit=1).run(lambda _: None)
    assert reason in caught.value.problem
    assert server.katib_writes == ["POST", "DELETE"]


def test_a_mistake_in_the_image_ends_the_search_before_the_limit_of_a_wait_for_a_node(
    server, search, monkeypatch
):
    server.pod_faults = [PULL_ERROR]
    monkeypatch.setattr(katib_watch, "BROKEN_LIMIT_SECONDS", 0.5)
    with pytest.raises(UnavailableError, match="ImagePullBackOff"):
        search(max_trials=1).run(lambda _: None)


def test_a_search_in_which_nothing_changes_ends(server, search, monkeypatch):
    monkeypatch.setenv("PUBLISH_SECONDS", "60")
    with pytest.raises(UnavailableError, match=r"nothing has changed for . s: 1 trial, 1 of them running"):
        search(max_trials=1, trial_silence_limit=1).run(lambda _: None)
    assert server.katib_writes == ["POST", "DELETE"]


def test_a_stopped_trial_is_judged_when_it_has_published_its_model(server, search, monkeypatch):
    # Katib reports it as stopped before.
    monkeypatch.setenv("PUBLISH_SECONDS", "0.5")
    server.seed = 5
    made = search(tune="initial_learning_rate=log:0.0001:0.5", max_trials=3, max_parallel_trials=1)
    trials = made.run(lambda _: None)
    assert [bool(trial.stop_reason) for trial in trials] == [False, True, True]
    assert all(trial.objective is not None for trial in trials)


def test_an_evicted_trial_resumes_in_another_pod_and_does_not_fail(server, search):
    evicted = []

    def report(trials):
        if not evicted and trials[0].evaluations:
            [name] = server.katib_trials
            evicted.append(name)
            server.evict(name)

    [trial] = search(max_trials=1).run(report)
    assert trial.state == SUCCEEDED
    assert [evaluation["step"] for evaluation in trial.evaluations] == [10, 20, 30, 40]
    # The second pod's collector has seen all evaluations, and the second process took only the missing steps.
    [found] = server.katib_trials.values()
    assert len(found["collected"]) == STEPS / 10
    assert "starts after 0 evaluations" not in server.katib_logs[evicted[0]].read_text()


def test_the_running_trials_of_a_failed_search_are_ended_and_a_restart_begins_again(
    server, search, monkeypatch
):
    monkeypatch.setenv("PUBLISH_SECONDS", "30")
    server.grace_seconds = 0.5

    def report(_):
        server.kill_training(next(iter(server.katib_trials)))

    with pytest.raises(CheckFailedError, match="1 of 3 trials failed"):
        search(max_failed_trials=1, max_trials=3).run(report)
    wait_until(lambda: all(process.poll() is not None for process in server.processes.values()), 5)
    monkeypatch.delenv("PUBLISH_SECONDS")
    trials = search(max_failed_trials=1, max_trials=3).run(lambda _: None)
    assert {trial.state for trial in trials} == {SUCCEEDED}
    assert server.katib_writes == ["POST", "DELETE", "POST"]


def test_a_search_waits_until_the_previous_one_is_deleted(server, search):
    server.deletion_seconds = 1.0
    search(max_trials=1).run(lambda _: None)
    [name] = server.katib_experiments
    Experiment(connect("test", "team"), name).delete()
    assert len(search(max_trials=1).run(lambda _: None)) == 1
    assert server.katib_writes == ["POST", "DELETE", "POST"]


def test_an_experiment_whose_deletion_never_ends_is_an_error(server, search, monkeypatch):
    monkeypatch.setattr(katib, "_DELETION_LIMIT_SECONDS", 1.0)
    server.deletion_seconds = 60.0
    search(max_trials=1).run(lambda _: None)
    [name] = server.katib_experiments
    experiment = Experiment(connect("test", "team"), name)
    experiment.delete()
    with pytest.raises(InterruptedRunError, match="still exists after 1 s"):
        experiment.wait_until_deleted()


def test_a_trial_that_was_killed_states_its_exit_code(server, search):
    seen = {}

    def report(trials):
        seen.update(trials=trials)
        server.kill_training(*server.katib_trials)

    with pytest.raises(PipelineError):
        search(max_trials=1, max_failed_trials=1).run(report)
    [trial] = seen["trials"]
    assert trial.exit_code == 137
    assert "backoff limit; it was killed, probably because it needs more memory" in trial.problem


def test_the_role_in_the_documentation_allows_every_request(server, step, tmp_path):
    process = step(max_trials=1)
    wait_until(lambda: server.processes)
    server.workflows["run-1"] = CANCELLED
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    server.pod_faults = ["no pod"]
    process = step(max_trials=1, trial_silence_limit=1)
    assert process.wait(60) == UnavailableError.exit_code
    page = (Path(__file__).parents[3] / "docs" / "tune.md").read_text()
    [role] = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", page, re.DOTALL)
    allowed = {
        (group, resource, verb)
        for rule in yaml.safe_load(role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = set()
    for method, path in server.katib_requests:
        parts = path.strip("/").split("/")
        group = parts[1] if parts[0] == "apis" else ""
        kind, *rest = parts[parts.index("namespaces") + 2 :]
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if rest else "list"}[method]
        needed.add((group, "/".join([kind, *rest[1:]]), verb))
    assert ("argoproj.io", "workflows", "get") in needed
    assert ("", "events", "list") in needed
    assert needed <= allowed
    # What the first step of a pipeline checks is what the search needs, except for what is optional.
    checked = {
        (need.group, need.resource, verb) for need in KATIB_NEEDS + CANCELLATION_NEEDS for verb in need.verbs
    }
    assert needed - {("", "events", "list")} <= checked


def test_the_stand_in_has_the_algorithms_of_katibs_own_configuration():
    file = Path(__file__).parents[4] / "shared" / "upstream" / "katib" / "katib-config.yaml"
    if not file.is_file():
        pytest.skip(f"NOT CHECKED against Katib's own configuration: {file} does not exist")
    runtime = yaml.safe_load(file.read_text())["runtime"]
    services = {entry["algorithmName"]: entry["image"] for entry in runtime["suggestions"]}
    assert set(SETTINGS) <= set(services)
    for algorithm, service in {"tpe": "hyperopt", "random": "hyperopt", "grid": "optuna"}.items():
        assert f"suggestion-{service}:v0.19.0" in services[algorithm]
    assert "suggestion-optuna:v0.19.0" in services["multivariate-tpe"]
    assert [entry["algorithmName"] for entry in runtime["earlyStoppings"]] == ["medianstop"]


def test_shards_of_equal_names_are_uploaded_side_by_side(search, coloured_dataset, tmp_path, cloud):
    engine = search(location=f"{cloud.uri}/tuned")
    manifest = engine.spec.manifest
    other = coloured_dataset(tmp_path / "other", train=2, validation=2)
    [shard], [added] = (
        with_absolute_paths(read_manifest(folder), parse_location(folder)).splits["train"].shards
        for folder in (engine.spec.dataset, other)
    )
    assert Path(shard.path).name == Path(added.path).name
    train = dataclasses.replace(manifest.splits["train"], shards=(shard, added))
    spec = dataclasses.replace(
        engine.spec, manifest=dataclasses.replace(manifest, splits={**manifest.splits, "train": train})
    )
    dataclasses.replace(engine, spec=spec).body("search")
    objects = cloud.contents("tuned/data/")
    [written] = [json.loads(content) for name, content in objects.items() if name.endswith("manifest.json")]
    uploaded = [
        objects[item["path"].removeprefix(f"{cloud.uri}/tuned/data/")]
        for item in written["splits"]["train"]["shards"]
    ]
    assert uploaded == [Path(shard.path).read_bytes(), Path(added.path).read_bytes()]


def test_trials_exchange_data_and_models_through_cloud_storage(server, search, cloud):
    trials = search(location="gs://photos/tuned", max_trials=2).run(lambda _: None)
    assert {trial.state for trial in trials} == {SUCCEEDED}
    for trial in trials:
        assert trial.model.startswith("gs://photos/tuned/model/trial_imgpipe-tune-")
        assert trial.objective > 0
        assert len(trial.evaluations) == STEPS / 10
    names = cloud.contents("tuned/")
    assert sum(name.startswith("data/") and "train-" in name for name in names) == 1
    assert any(name.endswith("/manifest.json") for name in names)


@pytest.mark.proof
def test_real_training_is_tuned_with_the_real_command(search):
    check_real_training(search)


@pytest.mark.proof
def test_the_step_on_kubeflow_outputs_the_best_trials_model(
    server, coloured_dataset, cloud, tmp_path, monkeypatch
):
    use_kubeconfig(monkeypatch, tmp_path, server)
    dataset = coloured_dataset(tmp_path / "data", train=4, validation=2)
    kinds = {"model": dsl.Model, "metrics": dsl.Metrics, "report": dsl.HTML, "trials": dsl.Artifact}
    outputs = [kind(uri=str(tmp_path / "out" / name)) for name, kind in kinds.items()]
    (tmp_path / "out").mkdir()
    settings = {"max_steps": 2, "train_batch_size": 4, "train_steps_per_eval": 1, "image_size": 32}
    tune(
        dsl.Dataset(uri=str(dataset)),
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
    assert metrics.metadata["trials"] == 1
    assert metrics.metadata["top_1_accuracy"] == trial["finalMetric"]["objectiveValue"]
    assert Path(report.path).read_text().startswith("<!DOCTYPE html>")
    assert server.katib_writes == ["POST"]
