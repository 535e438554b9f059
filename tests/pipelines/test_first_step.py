"""The first step of every compiled pipeline rejects what a later step, or its pod, would reject."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import yaml

from imgpipe.components.common.log import parse_event
from tests.pipelines.compiled import execute, inputs_of, spec_of
from tests.servers.kserve import Cluster, serve_cluster
from tests.servers.kubeflow import use_kubeconfig

TRAIN, TUNE, RETRAIN, BATCH = (
    "image_classification",
    "image_classification_tune",
    "image_classification_retrain",
    "batch_predict",
)
TARGETS = ("local", "kubeflow", "vertex")
TOLERATION = {"key": "gpu", "operator": "Exists"}
GPU = {"train_accelerator_type": "nvidia.com/gpu", "train_accelerator_count": "1"}
KSERVE = {"deploy_target": "kserve", "deploy_dir": "gs://photos/serving/flowers"}
KATIB = {"tune_engine": "katib", "tune": "max_steps=1,2", "job_dir": "gs://photos/tuned"}


@pytest.fixture
def start(tmp_path, photos, capsys, monkeypatch):
    """``start(target, pipeline, **values)`` runs a compiled first step with a form's values, as KFP does.

    Returns the ``step_failed`` event, or None.
    """

    monkeypatch.setenv("IMGPIPE_LOG_FORMAT", "json")

    def run(target, pipeline=TRAIN, **values):
        spec = spec_of(target, pipeline)
        tasks = spec["root"]["dag"]["tasks"]
        # The only task that depends on no other.
        [name] = [name for name, task in tasks.items() if not task.get("dependentTasks")]
        assert tasks[name]["cachingOptions"] == {}, "the check must run in every run"
        given = {"images": str(photos), **values}
        if pipeline == BATCH:
            given = {"model": str(tmp_path), "output_dir": str(tmp_path), **given}
        # The work of a first step that converts fails on the empty photos, after the check.
        with suppress(SystemExit):
            execute(spec, name, inputs_of(spec, name, given), tmp_path)
        events = [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]
        checked = [event["message"] for event in events if event["event"] == "checked"]
        assert all(message.startswith(f"{name.replace('-', '_')}: ") for message in checked)
        failed = next((event for event in events if event["event"] == "step_failed"), None)
        assert checked or failed
        return None if checked else failed

    return run


EVERYWHERE = [
    (TRAIN, {"optimizer_type": "sgdd"}, "optimizer_type='sgdd': must be auto, momentum, adam or rmsprop"),
    (TRAIN, {"max_steps": -5}, "max_steps=-5: must be at least 1"),
    (TRAIN, {"max_steps": 4.5}, "max_steps=4.5: must be a whole number, at least 1"),
    (TRAIN, {"images": ""}, "no input is given"),
    (TRAIN, {"export_formats": "coreml"}, "there is no format 'coreml'"),
    (TRAIN, {"min_accuracy": 80}, "min_accuracy=80: must be at least 0 and at most 1"),
    (TRAIN, {"deploy_target": "kserve"}, "deploy_target=kserve requires deploy_dir"),
    (TUNE, {}, "there is nothing to tune"),
    (TUNE, {"tune": "initial_learning_rate=log:0:1"}, "must be UNIT_LINEAR_SCALE for values from 0"),
    (RETRAIN, {"optimizer_type": "sgdd"}, "optimizer_type='sgdd'"),
    (RETRAIN, {}, "deploy_target=none"),
    (BATCH, {"top_k": 0}, "top_k=0: must be at least 1"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("pipeline", "values", "message"), EVERYWHERE, ids=lambda value: str(value)[:40])
def test_a_wrong_value_of_any_later_step_is_rejected_by_name(start, target, pipeline, values, message):
    failed = start(target, pipeline, **values)
    assert message in failed["problem"]
    assert failed["remedy"]
    assert failed["exit_code"] == 64


def test_all_wrong_values_are_reported_together_and_each_once(start):
    failed = start("kubeflow", optimizer_type="sgdd", seed=-1, train_cpu="lots")
    for message in ("optimizer_type='sgdd'", "seed=-1", "train_cpu='lots'"):
        assert failed["problem"].count(message) == 1


@pytest.mark.parametrize("target", ["local", "kubeflow"])
@pytest.mark.parametrize(
    ("pipeline", "name"), [(TRAIN, "images"), (TRAIN, "labels_file"), (TRAIN, "slices_csv"), (BATCH, "model")]
)
def test_missing_data_is_reported_with_its_argument(start, tmp_path, target, pipeline, name):
    failed = start(target, pipeline, **{name: str(tmp_path / "missing")})
    assert f"{name}=" in failed["problem"]
    assert "missing" in failed["problem"]
    assert failed["exit_code"] == 66


@pytest.mark.parametrize(
    ("values", "message", "remedy"),
    [
        ({"train_cpu": "lots"}, "train_cpu='lots' is not a valid Kubernetes quantity", "500m"),
        ({"train_cpu": "0"}, "train_cpu='0' is not a valid Kubernetes quantity", "500m"),
        ({"train_cpu": ""}, "train_cpu='' is not a valid Kubernetes quantity", "500m"),
        ({"train_memory": "16GB"}, "train_memory='16GB' is not a valid Kubernetes quantity", "16Gi"),
        ({"train_node_selector": {"a": 1}}, "train_node_selector={'a': 1} is not a JSON object", "nvidia-l4"),
        ({"train_node_selector": {"a b": "c"}}, "'a b' is not a valid label", "DOMAIN/NAME"),
        ({"train_node_selector": {"a": "b c"}}, "a='b c' is not a valid label value", "63 letters"),
        ({"train_tolerations": [3]}, "train_tolerations=[3] is not a JSON list of objects", "NoSchedule"),
        (
            {"train_tolerations": [{**TOLERATION, "effect": "Never"}]},
            "allowed are NoSchedule, PreferNo",
            "Exists",
        ),
        ({"train_tolerations": [{**TOLERATION, "value": "x"}]}, "value='x' must be empty", "Exists"),
        ({"train_tolerations": [{"value": "x"}]}, "operator must be Exists", "Exists"),
        ({"train_tolerations": [{**TOLERATION, "operator": "In"}]}, "allowed are Equal, Exists", "Exists"),
        ({"train_tolerations": [{**TOLERATION, "seconds": 3}]}, "there is no field 'seconds'", "Exists"),
        (
            {"train_tolerations": [{**TOLERATION, "tolerationSeconds": 3}]},
            "requires effect NoExecute",
            "Exists",
        ),
        ({"train_accelerator_type": "nvidia.com/gpu"}, "one of the two is missing", "set both"),
        ({**GPU, "train_accelerator_type": "gpu"}, "train_accelerator_type='gpu' is not", "google.com/tpu"),
        (
            {**GPU, "train_accelerator_count": "-1"},
            "train_accelerator_count=-1 is not a count",
            "whole number",
        ),
        ({"train_image": "https://x/y"}, "train_image='https://x/y' is not a valid image name", "HOST"),
        (GPU, "train_image=imgpipe-train-cpu:0.1.0 has the TensorFlow for CPUs", "imgpipe-train-gpu:0.1.0"),
        ({"storage_secret": "My_Secret"}, "storage_secret='My_Secret' is not a valid name", "lower-case"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_kubernetes_would_reject_in_the_pod_that_trains_is_rejected_first(
    start, values, message, remedy
):
    failed = start("kubeflow", **values)
    assert message in failed["problem"]
    assert remedy in failed["remedy"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trial_node_selector": '{"a": 1}'}, "trial_node_selector={'a': 1} is not a JSON object of strings"),
        ({"trial_tolerations": '[{"effect": "Never"}]'}, "trial_tolerations[0]"),
        ({"trial_cpu": "lots"}, "trial_cpu='lots' is not a valid Kubernetes quantity"),
        ({"tune_engine": "katib"}, "job_dir='': with tune_engine=katib"),
        ({"katib_namespace": "Team_A"}, "katib_namespace='Team_A' is not a valid name of a namespace"),
        ({"trial_service_account": "Trial_SA"}, "trial_service_account='Trial_SA' is not a valid name"),
    ],
)
def test_what_kubernetes_would_reject_in_a_trials_pod_is_rejected_first(start, values, message):
    assert message in start("kubeflow", TUNE, tune="max_steps=1,2", **values)["problem"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_restarts": 11}, "train_restarts=11: must be at least 0 and at most 10"),
        ({"train_worker_pools": "x"}, "train_worker_pools is not JSON"),
        ({"job_dir": "/disk/x"}, "job_dir=/disk/x is a local path"),
        ({"deploy_target": "local"}, "deploy_target=local cannot be used on target vertex"),
    ],
)
def test_what_vertex_ai_would_reject_is_rejected_first(start, values, message):
    failed = start("vertex", **{"images": "gs://bucket/photos", **values})
    assert message in failed["problem"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"namespace": "Team_A"}, "namespace='Team_A' is not a valid name of a namespace"),
        ({"serving_service_account": "a@b.c"}, "serving_service_account='a@b.c' is not a valid name"),
        ({"deploy_name": "n" * 47}, "is not a valid name for kserve"),
        ({"deploy_dir": f"gs://photos/{'n' * 47}"}, "is not a valid name for kserve"),
    ],
)
def test_names_that_kubernetes_would_reject_in_a_deployment_are_rejected_first(start, values, message):
    assert message in start("kubeflow", **{**KSERVE, **values})["problem"]


def test_a_tuning_on_one_machine_needs_a_local_job_dir(start):
    failed = start("local", TUNE, tune="max_steps=1,2", job_dir="gs://bucket/tuned")
    assert "a run on this machine writes to a local folder" in failed["problem"]


@pytest.mark.parametrize("target", ["local", "kubeflow"])
def test_a_folder_that_cannot_be_written_is_rejected_before_any_work(start, target, tmp_path):
    (tmp_path / "file").write_text("")
    failed = start(target, job_dir=str(tmp_path / "file" / "job"))
    assert failed["problem"].startswith("job_dir=")
    assert failed["exit_code"] == 73


@pytest.mark.parametrize("target", ["local", "kubeflow"])
@pytest.mark.parametrize(
    ("pipeline", "values"), [(TRAIN, {}), (TUNE, {"tune": "max_steps=1,2"}), (BATCH, {})]
)
def test_valid_values_pass(start, target, pipeline, values):
    assert start(target, pipeline, **values) is None


def test_numbers_that_kfp_writes_as_floats_pass(start):
    values = {
        "max_steps": 30.0,
        "train_tolerations": [{**TOLERATION, "effect": "NoExecute", "tolerationSeconds": 60.0}],
    }
    assert start("kubeflow", **values) is None


@pytest.mark.parametrize(
    ("pipeline", "values", "denied", "purpose"),
    [
        (TRAIN, KSERVE, "update inferenceservices.serving.kserve.io", "deploy_target=kserve"),
        (TRAIN, KSERVE, "list pods", "deploy_target=kserve"),
        (TRAIN, KSERVE, "get revisions.serving.knative.dev", "deploy_target=kserve"),
        (TUNE, KATIB, "create experiments.kubeflow.org", "tune_engine=katib"),
        # Of the run's own namespace: without them, the search outlives a run that is cancelled.
        (TUNE, KATIB, "get workflows.argoproj.io", "tune_engine=katib"),
        (TUNE, KATIB, "get pods", "tune_engine=katib"),
    ],
)
def test_missing_permissions_are_reported_with_the_manifest_that_grants_them(
    start, tmp_path, monkeypatch, pipeline, values, denied, purpose
):
    with serve_cluster(Cluster(denied=(denied,))) as server:
        use_kubeconfig(monkeypatch, tmp_path, server)
        failed = start("kubeflow", pipeline, **values)
    account = "system:serviceaccount:kubeflow:pipeline-runner"
    assert failed["problem"] == f"{purpose}: {account} may not {denied} in namespace 'default'"
    assert failed["exit_code"] == 69
    role, binding = yaml.safe_load(failed["remedy"].partition("\n")[2])["items"]
    verb, _, resource = denied.partition(" ")
    name = role["metadata"]["name"]
    assert name == f"imgpipe-{role['rules'][0]['resources'][0]}"
    assert role["metadata"] == binding["metadata"] == {"name": name, "namespace": "default"}
    assert binding["roleRef"]["name"] == name
    rules = {f"{rule['resources'][0]}.{rule['apiGroups'][0]}".rstrip("."): rule for rule in role["rules"]}
    rule = rules[resource]
    assert verb in rule["verbs"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}
    ]


@pytest.mark.parametrize(
    ("pipeline", "values", "group", "product"),
    [(TRAIN, KSERVE, "serving.kserve.io", "KServe"), (TUNE, KATIB, "kubeflow.org", "Katib")],
)
def test_a_cluster_without_kserve_or_katib_is_reported(
    start, tmp_path, monkeypatch, pipeline, values, group, product
):
    """Kubernetes grants permissions for APIs that do not exist, so they are not asked for alone."""
    with serve_cluster(Cluster(denied=(f"/apis/{group}/v1beta1",))) as server:
        use_kubeconfig(monkeypatch, tmp_path, server)
        failed = start("kubeflow", pipeline, **values)
    assert f"the cluster has no API {group}/v1beta1" in failed["problem"]
    assert f"install {product}" in failed["remedy"]


NO_KNATIVE = ("/apis/serving.knative.dev/v1", "get revisions.serving.knative.dev")


@pytest.mark.parametrize(
    ("pipeline", "values", "denied"), [(TRAIN, KSERVE, ()), (TRAIN, KSERVE, NO_KNATIVE), (TUNE, KATIB, ())]
)
def test_a_run_with_all_permissions_passes(start, tmp_path, monkeypatch, cloud, pipeline, values, denied):
    with serve_cluster(Cluster(denied=denied)) as server:
        use_kubeconfig(monkeypatch, tmp_path, server)
        assert start("kubeflow", pipeline, **values) is None


def test_a_run_without_kserve_or_katib_sends_no_request_to_a_cluster(start, tmp_path, monkeypatch):
    server = SimpleNamespace(address="http://127.0.0.1:9")
    use_kubeconfig(monkeypatch, tmp_path, server)
    assert start("kubeflow") is None
