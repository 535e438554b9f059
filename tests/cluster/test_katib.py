"""Searches by every engine that the cluster has, trials that cannot start, evictions and cancellation."""

import json

import pytest
import yaml

from imgpipe.components.platforms.kubernetes.katib import EARLY_STOPPED, GROUP, SUCCEEDED, VERSION, condition
from imgpipe.components.storage import parse_location
from imgpipe.pipelines.compiled_pipelines import TRAIN, TUNE
from tests.cluster.installation import RUN_SECONDS, step_of, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * RUN_SECONDS)]

_SMALL = {"model_type": "resnet-18", "weights": "none", "image_size": 32}
# Half of these values cannot learn: early stopping has something to stop.
_SEARCH = {
    "tune": "initial_learning_rate=0.0000001,0.0000002,0.003,0.01",
    "max_trials": 4,
    "max_parallel_trials": 2,
    "max_steps": 12,
    "train_steps_per_eval": 4,
    "trial_early_stopping": "off",
    "trial_cpu": "500m",
    "trial_memory": "2G",
}
ENGINES = {
    "local": {"tune_engine": "local", "trial_early_stopping": "on"},
    "random": {"search_algorithm": "random"},
    "multivariate-tpe": {"search_algorithm": "bayesian"},
    "grid": {"search_algorithm": "grid"},
    "medianstop": {"search_algorithm": "random", "trial_early_stopping": "on", "max_trials": 8},
}
_LABEL = "katib.kubeflow.org/metrics-collector-injection"


@pytest.fixture
def katib(installation, require_kind):
    """The namespace has the label that Katib needs; ``katib(name)`` skips a test without that algorithm."""
    require_kind(f"experiments.{GROUP}", "Katib")
    core, namespace = installation.core, installation.namespace
    before = (core.read_namespace(namespace).metadata.labels or {}).get(_LABEL)
    core.patch_namespace(namespace, {"metadata": {"labels": {_LABEL: "enabled"}}})
    [config] = core.list_config_map_for_all_namespaces(field_selector="metadata.name=katib-config").items
    runtime = yaml.safe_load(config.data["katib-config.yaml"])["runtime"]
    services = {service["algorithmName"] for service in [*runtime["suggestions"], *runtime["earlyStoppings"]]}

    def require_algorithm(name):
        if name not in services:
            pytest.skip(f"not tested with {name}: Katib's configuration has no such service")

    yield require_algorithm
    core.patch_namespace(namespace, {"metadata": {"labels": {_LABEL: before}}})


@pytest.fixture
def search(installation, start, job):
    """``search(trial_cpu="1000")`` starts a search whose values are typed into the form."""

    def start_search(**values):
        images, job_dir = f"{installation.folder}/digits", f"{installation.folder}/{job}"
        form = {**_SMALL, **_SEARCH, "tune_engine": "katib", **values}
        return start(images=images, job_dir=job_dir, **form)

    yield start_search
    if installation.has_kind(f"experiments.{GROUP}") and (experiment := experiment_of(installation, job)):
        installation.custom(GROUP, VERSION, "experiments").delete(experiment["metadata"]["name"])


def experiment_of(installation, job):
    """Returns the Experiment of a run; None if there is none."""
    experiments = installation.custom(GROUP, VERSION, "experiments").list("")
    return next((found for found in experiments if f"/{job}" in json.dumps(found["spec"])), None)


def trials_of(installation, experiment):
    """Returns the trials of an Experiment by their UIDs."""
    label = f"katib.kubeflow.org/experiment={experiment['metadata']['name']}"
    listed = installation.custom(GROUP, VERSION, "trials").list(label)
    return {trial["metadata"]["uid"]: trial for trial in listed}


def check_search(installation, job, count=_SEARCH["max_trials"]):
    """Checks that a search has succeeded with every trial counted once, and returns its Experiment."""
    assert installation.wait_until_ended(job) == "SUCCEEDED", installation.describe(job)
    experiment = experiment_of(installation, job)
    assert condition(experiment, SUCCEEDED)
    trials = trials_of(installation, experiment).values()
    assert len(trials) == count
    assert all(condition(trial, SUCCEEDED) or condition(trial, EARLY_STOPPED) for trial in trials)
    folder = parse_location(f"{installation.folder}/{job}")
    # Katib stops a trial on the line with the metric, before the trial has published its first model.
    whole = [trial for trial in trials if not condition(trial, EARLY_STOPPED)]
    models = {f"trial_{trial['metadata']['name']}/" for trial in whole}
    assert models <= set((folder / "model").children())
    assert len(json.loads((folder / "trials.json").read())["trials"]) == count
    return experiment


def running_pods(installation, run_id, step):
    """Returns the names of a step's pods that run.

    A pod that is evicted before is created again under the same name: it is not a second attempt.
    """
    pods = [pod for pod in installation.pods(run_id) if step_of(pod) == step]
    return [pod.metadata.name for pod in pods if pod.status.phase == "Running"]


@pytest.mark.parametrize("uploaded", [TUNE], indirect=True)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_search_by_each_engine(installation, request, search, job, engine):
    if engine != "local":
        request.getfixturevalue("katib")(engine)
    values = ENGINES[engine]
    search(**values)
    if engine == "local":
        assert installation.wait_until_ended(job) == "SUCCEEDED", installation.describe(job)
        return
    check_search(installation, job, values.get("max_trials", _SEARCH["max_trials"]))


@pytest.mark.parametrize("uploaded", [TUNE], indirect=True)
def test_a_trial_that_cannot_start_ends_the_search_with_its_reason(installation, katib, search, job):
    katib("random")
    search(search_algorithm="random", trial_cpu="1000", trial_silence_limit=60)
    assert installation.wait_until_ended(job) == "FAILED"
    step = installation.describe(job)["details"]["steps"]["tune"]
    assert "Insufficient cpu" in " ".join(step["error"].split())
    wait_for(lambda: experiment_of(installation, job) is None, 60, "the experiment is deleted")


@pytest.mark.parametrize(
    ("uploaded", "step"), [(TRAIN, "convert"), (TRAIN, "train"), (TUNE, "tune")], indirect=["uploaded"]
)
def test_a_step_that_is_evicted_starts_again_and_continues(installation, request, search, start, job, step):
    images, job_dir = f"{installation.folder}/digits", f"{installation.folder}/{job}"
    known = {}
    if step == "tune":
        request.getfixturevalue("katib")("random")
        run_id = search(search_algorithm="random")
        experiment = wait_for(lambda: experiment_of(installation, job), RUN_SECONDS, "the search starts")
        known = wait_for(lambda: trials_of(installation, experiment), 300, "the first trial starts")
    else:
        # A new version of the data: convert does not come from the cache.
        form = {"data_version": job, "max_steps": 300, "train_steps_per_eval": 20, **_SMALL}
        run_id = start(images=images, job_dir=job_dir, **form)
    if step == "train":
        checkpoints = parse_location(f"{job_dir}/checkpoints")
        wait_for(lambda: checkpoints.children(limit=1), RUN_SECONDS, "the first checkpoint")
    pod = wait_for(lambda: running_pods(installation, run_id, step), RUN_SECONDS, f"{step} starts")[0]
    installation.evict(pod)
    if step == "tune":
        again = check_search(installation, job)
        assert again["metadata"]["uid"] == experiment["metadata"]["uid"]
        assert known.keys() <= trials_of(installation, again).keys()
    assert installation.wait_until_ended(job) == "SUCCEEDED", installation.describe(job)
    assert installation.describe(job)["details"]["steps"][step]["attempts"] == 2
    if step == "train":
        assert "resuming from the checkpoint" in installation.imgpipe("stream-logs", job).stdout


@pytest.mark.parametrize("uploaded", [TUNE], indirect=True)
def test_a_search_whose_run_is_cancelled_ends_with_its_trials(installation, katib, search, job):
    katib("random")
    search(search_algorithm="random", max_steps=1000)
    experiment = wait_for(lambda: experiment_of(installation, job), RUN_SECONDS, "the search starts")
    wait_for(lambda: trials_of(installation, experiment), 300, "the first trial starts")
    assert installation.imgpipe("cancel", job).returncode == 0
    assert installation.wait_until_ended(job, 180) == "CANCELLED"
    wait_for(lambda: experiment_of(installation, job) is None, 60, "the experiment is deleted")
    label = f"katib.kubeflow.org/experiment={experiment['metadata']['name']}"

    def pods():
        return installation.core.list_namespaced_pod(installation.namespace, label_selector=label).items

    wait_for(lambda: not pods(), 120, "the pods of the trials are deleted")
