import copy
import json
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    UnavailableError,
)
from imgpipe.components.common.model_folder import local_model, model_digest
from imgpipe.components.deploy import kserve
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.kserve import deploy_to_kserve, find_kserve_model
from imgpipe.components.deploy.serving import find_serving_model
from imgpipe.components.platforms.kubernetes.client import MANAGED_BY, connect
from imgpipe.components.platforms.kubernetes.storage_access import check_s3_access
from tests.servers.deployments import deploy_model
from tests.servers.kserve import (
    CRASHES,
    EARLY_PORT,
    INTERNAL_ERROR,
    KNATIVE,
    NEVER_READY,
    NO_SIGNATURE,
    OTHER_ANSWERS,
    OTHER_LABELS,
    STANDARD,
    load_from,
    runtime,
)

# The longest name that both modes allow.
LONGEST = "a" * 46


@pytest.fixture
def deploy(on_kserve, models):
    """``deploy(0, canary_percent=10)`` deploys the first model with the real client."""
    return lambda number, **values: deploy_model(models[number], on_kserve, **values)


@pytest.fixture
def served(on_kserve):
    """``served()`` returns the storage URI of the model that answers most requests."""
    return lambda: find_kserve_model(DeployArguments(**on_kserve))


def storage_of(models, number):
    return f"gs://photos/serving/flowers/{model_digest(models[number])[:16]}"


def predictor(cluster):
    """Our fields of the specification, without the webhook's defaults."""
    found = copy.deepcopy(cluster.objects["team/flowers"]["spec"]["predictor"])
    for name in ("name", "resources"):
        del found["model"][name]
    return found


def traffic(cluster):
    status = cluster.objects["team/flowers"]["status"]["components"]["predictor"]
    return {target["revisionName"][-1]: target["percent"] for target in status["traffic"]}


@pytest.fixture(params=[KNATIVE, STANDARD])
def each_mode(request, cluster):
    """Runs a test with Knative and in Standard mode."""
    cluster.mode = request.param
    return request.param


def test_the_first_model_is_uploaded_and_answers(each_mode, deploy, cluster, cloud, models):
    deployment = deploy(0, serving_service_account="reader")
    assert (deployment.changed, deployment.verified, deployment.traffic_percent) == (True, True, 100)
    assert deployment.location == "http://flowers.example"
    assert cluster.answering() == {storage_of(models, 0): 100}
    found = predictor(cluster)
    assert list(found.pop("annotations")) == ["imgpipe/specification"]
    assert found == {
        "model": {"modelFormat": {"name": "tensorflow"}, "storageUri": storage_of(models, 0)},
        "serviceAccountName": "reader",
    }
    base = storage_of(models, 0).removeprefix("gs://photos/")
    files = {
        path.relative_to(models[0]).as_posix(): path.read_bytes()
        for path in models[0].rglob("*")
        if path.is_file()
    }
    verification = files.pop("verification.json")
    assert cloud.contents(f"{base}/1/") == files
    assert cloud.contents(f"{base}/v") == {"erification.json": verification}


def test_deploying_the_same_model_again_changes_nothing(each_mode, deploy, cluster, cloud):
    first = deploy(0)
    pods = list(cluster.workloads["team/flowers"].pods)
    cluster.writes.clear()
    cloud.requests.clear()
    again = deploy(0)
    assert cluster.writes == []
    assert cluster.workloads["team/flowers"].pods == pods
    assert {method for method, _ in cloud.requests} == {"GET"}
    assert not again.changed
    assert (again.location, again.version, again.model_digest) == (
        first.location,
        first.version,
        first.model_digest,
    )


def test_other_fields_of_the_service_are_kept(each_mode, deploy, cluster):
    deploy(0)
    cluster.objects["team/flowers"]["spec"]["predictor"]["minReplicas"] = 1
    deploy(1)
    assert predictor(cluster)["minReplicas"] == 1


def test_a_canary_gets_its_share_and_then_all_traffic(deploy, cluster, models):
    deploy(0)
    canary = deploy(1, canary_percent=10)
    assert canary.traffic_percent == 10
    assert cluster.answering() == {storage_of(models, 0): 90, storage_of(models, 1): 10}
    assert not deploy(1, canary_percent=10).changed
    pods = list(cluster.workloads["team/flowers"].pods)
    promoted = deploy(1, canary_percent=100)
    assert (promoted.changed, promoted.traffic_percent) == (True, 100)
    # No pod was started.
    assert cluster.workloads["team/flowers"].pods == pods
    assert "canaryTrafficPercent" not in predictor(cluster)
    assert cluster.answering() == {storage_of(models, 1): 100}


def test_a_canary_in_standard_mode_is_refused_before_anything_is_changed(deploy, cluster, cloud):
    cluster.mode = STANDARD
    deploy(0)
    cluster.writes.clear()
    cloud.requests.clear()
    with pytest.raises(
        InvalidArgumentError, match=r"canary_percent=10 requires Knative.*Standard mode"
    ) as caught:
        deploy(1, canary_percent=10)
    assert "deploy_name" in caught.value.remedy
    assert cluster.writes == []
    assert cloud.requests == []


def test_the_serving_model_is_the_one_with_most_traffic(deploy, cluster, served, models, capsys):
    deploy(0)
    deploy(1, canary_percent=10)
    deploy(2, canary_percent=10)
    assert cluster.answering() == {storage_of(models, 0): 90, storage_of(models, 2): 10}
    assert served() == storage_of(models, 0)
    shown = capsys.readouterr().out
    assert f"{storage_of(models, 0)} with 90%, {storage_of(models, 2)} with 10%" in shown
    deploy(1, canary_percent=60)
    assert served() == storage_of(models, 1)
    deploy(2, canary_percent=100)
    assert served() == storage_of(models, 2)


def test_the_model_of_the_pods_serves_not_that_of_the_specification(deploy, cluster, served, models):
    cluster.mode = STANDARD
    deploy(0)
    cluster.start_seconds = 60
    cluster.specify(storage_of(models, 1))
    for _ in range(3):
        assert served() == storage_of(models, 0)
        time.sleep(0.02)


def test_no_model_serves_while_no_pod_is_ready(each_mode, deploy, cluster, served):
    deploy(0)
    cluster.crash()
    with pytest.raises(UnavailableError, match="does not serve"):
        served()


BROKEN = [CRASHES, OTHER_ANSWERS, OTHER_LABELS, NO_SIGNATURE, NEVER_READY]


@pytest.mark.parametrize("behaviour", BROKEN)
def test_a_model_that_does_not_answer_correctly_is_rolled_back(each_mode, behaviour, deploy, cluster, models):
    deploy(0)
    before = predictor(cluster)
    cluster.behaviours[storage_of(models, 1)] = behaviour
    with pytest.raises(CheckFailedError, match=r"was rolled back") as caught:
        # Also the limit of the rollback, on a busy machine.
        deploy(1, deploy_timeout_seconds=4 if behaviour == NEVER_READY else 30)
    assert f"{storage_of(models, 0)} serves again and answers" in caught.value.remedy
    assert predictor(cluster) == before
    assert cluster.answering() == {storage_of(models, 0): 100}
    # A good model can be deployed afterwards.
    assert deploy(2).changed
    assert cluster.answering() == {storage_of(models, 2): 100}


@pytest.mark.parametrize("behaviour", BROKEN)
def test_a_first_model_that_does_not_answer_correctly_leaves_no_service(
    each_mode, behaviour, deploy, cluster, models
):
    cluster.behaviours[storage_of(models, 0)] = behaviour
    with pytest.raises(CheckFailedError, match="was rolled back"):
        deploy(0, deploy_timeout_seconds=1 if behaviour == NEVER_READY else 30)
    assert cluster.objects == {}


def test_with_knative_a_wrong_model_never_gets_traffic(deploy, cluster, models):
    deploy(0)
    cluster.behaviours[storage_of(models, 1)] = OTHER_ANSWERS
    answering, ended = [], threading.Event()

    def watch():
        while not ended.wait(0.002):
            answering.append(frozenset(cluster.answering()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(CheckFailedError, match="its answers are not those of the evaluation"):
            deploy(1)
    finally:
        ended.set()
        watcher.join()
    assert set(answering) == {frozenset([storage_of(models, 0)])}


def test_a_port_that_opens_before_the_model_is_loaded_is_not_taken_for_an_answer(
    each_mode, deploy, cluster, models
):
    deploy(0)
    cluster.behaviours[storage_of(models, 1)] = EARLY_PORT
    cluster.start_seconds = 0.5
    started = time.monotonic()
    assert deploy(1).verified
    assert time.monotonic() - started >= 0.5
    assert cluster.answering() == {storage_of(models, 1): 100}


def test_a_second_canary_that_cannot_be_loaded_leaves_the_first(deploy, cluster, served, models):
    deploy(0)
    deploy(1, canary_percent=10)
    before = predictor(cluster)
    cluster.behaviours[storage_of(models, 2)] = CRASHES
    with pytest.raises(CheckFailedError):
        deploy(2, canary_percent=10)
    assert predictor(cluster) == before
    assert cluster.answering() == {storage_of(models, 0): 90, storage_of(models, 1): 10}
    assert served() == storage_of(models, 0)
    assert not deploy(1, canary_percent=10).changed
    assert deploy(1, canary_percent=100).traffic_percent == 100


def test_the_first_model_gets_all_traffic_despite_canary_percent(deploy, cluster):
    assert deploy(0, canary_percent=10).traffic_percent == 100
    again = deploy(0, canary_percent=10)
    assert (again.traffic_percent, again.changed, again.verified) == (100, False, True)


def test_a_model_with_all_traffic_keeps_it_despite_canary_percent(deploy, cluster, models):
    deploy(0)
    deploy(1)
    again = deploy(1, canary_percent=10)
    assert (again.traffic_percent, again.changed) == (100, False)
    assert cluster.answering() == {storage_of(models, 1): 100}


def test_the_share_is_that_of_all_revisions_of_the_model(deploy, cluster, models):
    deploy(0)
    cluster.objects["team/flowers"]["spec"]["predictor"]["canaryTrafficPercent"] = 0
    cluster.specify(storage_of(models, 1))
    assert deploy(0, canary_percent=60).traffic_percent == 100
    assert cluster.answering() == {storage_of(models, 0): 100}
    assert deploy(2, canary_percent=60).traffic_percent == 60
    # The model that gets the rest has no share of its own.
    assert deploy(0, canary_percent=30).traffic_percent == 100
    assert cluster.answering() == {storage_of(models, 0): 100}


def test_a_promotion_that_does_not_answer_gives_the_previous_model_its_share_back(deploy, cluster, models):
    deploy(0)
    deploy(1, canary_percent=10)
    before_first(cluster, "PUT", lambda: setattr(cluster, "blocked", True))
    with pytest.raises(CheckFailedError, match="was rolled back"):
        deploy(1)
    assert cluster.answering() == {storage_of(models, 0): 90, storage_of(models, 1): 10}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"\n\0" * 500), "saved_model.pb was changed"),
        (lambda folder: (folder / "extra.txt").write_text("x"), "extra.txt was added"),
        (lambda folder: (folder / "assets" / "labels.txt").unlink(), "labels.txt is missing"),
        (lambda folder: (folder / "verification.json").unlink(), "verification.json"),
        (lambda folder: (folder / "verification.json").write_text("{}"), "verification.json"),
    ],
)
def test_a_model_that_is_not_the_exported_one_is_refused_before_the_upload(
    damage, message, on_kserve, models, cluster, cloud, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(models[0], model)
    damage(model)
    with pytest.raises((CheckFailedError, MissingInputError), match=message):
        deploy_to_kserve(model, DeployArguments(**on_kserve))
    assert cluster.objects == {}
    assert cloud.requests == []


def test_a_model_that_is_damaged_in_the_bucket_is_rolled_back(each_mode, deploy, cluster, cloud, models):
    deploy(0)
    path = f"{storage_of(models, 1).removeprefix('gs://photos/')}/1/saved_model.pb"
    graph = (models[1] / "saved_model.pb").read_bytes()
    # As long as the right file, so that it is not uploaded again.
    cloud.put(path, graph[:1000] + bytes(len(graph) - 1000))
    with pytest.raises(CheckFailedError, match="was rolled back"):
        deploy(1)
    assert cluster.answering() == {storage_of(models, 0): 100}


def test_an_interrupted_upload_is_completed(deploy, cluster, cloud, models):
    path = f"{storage_of(models, 0).removeprefix('gs://photos/')}/1/saved_model.pb"
    cloud.put(path, b"\n")
    assert deploy(0).verified


def test_a_model_that_no_request_reaches_is_not_served(each_mode, deploy, cluster, models, capsys):
    deploy(0)
    cluster.blocked = True
    with pytest.raises(
        CheckFailedError, match=r"rolled back: the model is not verified.*no request reaches"
    ) as caught:
        deploy(1)
    assert "allow_unverified" in caught.value.remedy
    assert cluster.answering() == {storage_of(models, 0): 100}
    deployment = deploy(1, allow_unverified=True)
    assert not deployment.verified
    assert cluster.answering() == {storage_of(models, 1): 100}
    assert "not_verified" in capsys.readouterr().out


def test_a_model_that_fails_on_each_request_is_not_kept_unverified(each_mode, deploy, cluster, models):
    deploy(0)
    cluster.behaviours[storage_of(models, 1)] = INTERNAL_ERROR
    with pytest.raises(CheckFailedError, match=r"rolled back: the model does not answer.*status 500: Matrix"):
        deploy(1, allow_unverified=True)
    assert cluster.answering() == {storage_of(models, 0): 100}


def test_the_wait_survives_an_api_server_that_fails_now_and_then(each_mode, deploy, cluster, models):
    deploy(0)
    cluster.flaky = 0.4
    for number in (1, 2, 0):
        assert deploy(number, deploy_timeout_seconds=20).verified
        assert cluster.answering() == {storage_of(models, number): 100}


def test_an_api_server_that_restarts_does_not_end_the_wait(each_mode, deploy, cluster, models):
    deploy(0)
    cluster.start_seconds = 0.3

    def restart():
        time.sleep(0.1)
        cluster.unavailable = True
        time.sleep(0.5)
        cluster.unavailable = False

    thread = threading.Thread(target=restart)
    thread.start()
    assert deploy(1, deploy_timeout_seconds=20).verified
    thread.join()


def test_a_rejected_request_during_the_wait_rolls_back(deploy, cluster, models):
    cluster.mode = STANDARD
    deploy(0)
    cluster.start_seconds = 0.5
    timer = threading.Timer(0.2, cluster.forbidden.add, ["deployments"])
    again = threading.Timer(0.6, cluster.forbidden.clear)
    timer.start()
    original = kserve._roll_back

    def late(*arguments, **values):
        again.start()
        again.join()
        return original(*arguments, **values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kserve, "_roll_back", late)
        with pytest.raises(CheckFailedError, match=r"rolled back.*403 deployments is forbidden"):
            deploy(1)
    assert cluster.answering() == {storage_of(models, 0): 100}


@contextmanager
def until_terminated():
    """Expects that SIGTERM ends the block, as it ends a step."""

    class Terminated(BaseException):
        pass

    def terminate(*_):
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(Terminated):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize("has_previous", [True, False])
def test_a_step_that_is_terminated_restores_what_served(each_mode, has_previous, deploy, cluster, models):
    if has_previous:
        deploy(0)
    cluster.start_seconds = 60

    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with until_terminated():
        deploy(1)
    time.sleep(0.05)
    assert cluster.answering() == ({storage_of(models, 0): 100} if has_previous else {})
    assert ("team/flowers" in cluster.objects) == has_previous


@pytest.mark.parametrize("canary", [None, 10])
def test_a_step_that_is_terminated_after_it_moved_the_traffic_moves_it_back(
    canary, deploy, cluster, models, monkeypatch, capsys
):
    deploy(0)
    if canary:
        deploy(1, canary_percent=canary)
    before = cluster.answering()
    monkeypatch.setattr(kserve, "ANSWER_SECONDS", 60.0)

    def has_moved():
        while cluster.answering() != {storage_of(models, 1): 100}:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    # The model answers without traffic, and then no request reaches the service.
    set_traffic = kserve._Rollout._set_traffic

    def set_traffic_and_block(rollout):
        cluster.blocked = True
        threading.Thread(target=has_moved).start()
        return set_traffic(rollout)

    monkeypatch.setattr(kserve._Rollout, "_set_traffic", set_traffic_and_block)
    with until_terminated():
        deploy(1, deploy_timeout_seconds=20)
    for _ in range(3):
        time.sleep(0.05)
        after = cluster.answering()
    assert after == before
    shown = capsys.readouterr().out
    assert (
        "has the specification of" if canary else "the new model of team/flowers gets no requests"
    ) in shown


def killed(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("retried", [1, 2])
def test_a_step_that_was_killed_can_still_roll_back(each_mode, retried, deploy, cluster, models, monkeypatch):
    deploy(0)
    before = predictor(cluster)
    cluster.behaviours[storage_of(models, 1)] = OTHER_ANSWERS
    cluster.behaviours[storage_of(models, 2)] = CRASHES
    with monkeypatch.context() as patched:
        patched.setattr(kserve._Rollout, "wait_for_answer", killed)
        patched.setattr(kserve, "_restore_before_exit", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            deploy(1)
    assert predictor(cluster) != before
    with pytest.raises(CheckFailedError):
        deploy(retried)
    assert predictor(cluster) == before
    assert cluster.answering() == {storage_of(models, 0): 100}


def test_a_conflicting_change_is_retried(deploy, cluster):
    deploy(0)
    cluster.conflicts = 2
    assert deploy(1).changed


def before_first(cluster, method, change):
    """Lets another client change the cluster between the step's last read and its first write."""
    handle, changes = cluster.handle, [change]

    def handle_after_change(requested, path, *rest):
        if requested == method and path.endswith(("/inferenceservices", "/flowers")) and changes:
            changes.pop()()
        return handle(requested, path, *rest)

    cluster.handle = handle_after_change


@pytest.mark.parametrize("labels", [{}, MANAGED_BY])
def test_a_service_that_another_client_creates_meanwhile_is_not_deleted(labels, deploy, cluster):
    model = {"modelFormat": {"name": "tensorflow"}, "storageUri": "gs://photos/other"}
    other = {"metadata": {"name": "flowers", "labels": labels}, "spec": {"predictor": {"model": model}}}
    before_first(cluster, "POST", lambda: cluster.create("team", other))
    with pytest.raises((UnavailableError, OutputError), match="created by"):
        deploy(0)
    assert cluster.objects["team/flowers"]["spec"]["predictor"]["model"]["storageUri"] == "gs://photos/other"


def test_a_specification_that_another_client_writes_meanwhile_is_not_overwritten(deploy, cluster, models):
    deploy(0)
    deploy(2)

    def change():
        cluster.specify(storage_of(models, 0))
        cluster.conflicts = 5

    before_first(cluster, "PUT", change)
    with pytest.raises(UnavailableError, match="is being changed by another client"):
        deploy(1)
    assert predictor(cluster)["model"]["storageUri"] == storage_of(models, 0)


def test_a_service_that_imgpipe_did_not_create_is_not_changed(deploy, cluster):
    deploy(0)
    cluster.objects["team/flowers"]["metadata"]["labels"] = {}
    with pytest.raises(OutputError, match="was not created by imgpipe"):
        deploy(1)


def test_a_rejected_request_is_explained(deploy):
    with pytest.raises(UnavailableError, match="403 inferenceservices is forbidden") as caught:
        deploy(0, namespace="forbidden")
    assert "check that KServe is installed" in caught.value.remedy


def test_a_cluster_that_does_not_respond_ends_the_step_as_interrupted(deploy, served, cluster):
    deploy(0)
    cluster.unavailable = True
    with pytest.raises(InterruptedRunError, match="503 not now"):
        served()


def test_settings_that_do_not_become_ready_are_rolled_back(each_mode, deploy, cluster, models):
    deploy(0)
    before = predictor(cluster)
    cluster.start_seconds = 60
    # With Knative, the restored specification gets a new revision, which has to start.
    threading.Timer(0.9, setattr, [cluster, "start_seconds", 0.05]).start()
    with pytest.raises(CheckFailedError, match="not ready in time"):
        deploy(0, serving_image="tensorflow-serving:broken", deploy_timeout_seconds=1)
    assert predictor(cluster) == before
    assert cluster.answering() == {storage_of(models, 0): 100}


@pytest.mark.parametrize("values", [{}, {"serving_image": "docker.io/tensorflow/serving:2.4.1"}])
def test_a_runtime_that_is_too_old_is_refused_before_the_upload(values, deploy, cluster, cloud):
    cluster.runtimes = [runtime("tensorflow/serving:2.4.1")]
    with pytest.raises(CheckFailedError, match=r"tensorflow/serving:2.4.1.*cannot load the model") as caught:
        deploy(0, **values)
    assert "ServingRuntime in docs/deploy.md" in caught.value.remedy
    assert (cluster.objects, cloud.requests) == ({}, [])


def of_namespace(image, name, priority=None, **fields):
    found = runtime(image, **fields)
    found["metadata"] |= {"name": name, "namespace": "team"}
    found["spec"]["supportedModelFormats"][0]["priority"] = priority
    return found


def test_the_runtime_that_kserve_selects_is_judged(deploy, cluster):
    """predictor_model.go, GetSupportingRuntimes: the namespace first, then the priorities."""
    cluster.runtimes = [runtime("tensorflow/serving:2.4.1")]
    many = {"multiModel": True}, {"workerSpec": {"pipelineParallelSize": 2}}
    cluster.namespace_runtimes = [of_namespace("imgpipe:1", "many", 9, **fields) for fields in many]
    with pytest.raises(CheckFailedError, match=r"serving:2\.4\.1 of tensorflow-runtime cannot load"):
        deploy(0)
    cluster.namespace_runtimes.append(of_namespace("imgpipe:1", "with-priority", 1))
    cluster.namespace_runtimes.append(of_namespace("tensorflow/serving:2.3.0", "without-priority"))
    assert deploy(0).verified


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runtime": "old"}, r"tensorflow/serving:2\.3\.0 of old cannot load"),
        ({"runtime": "missing"}, "no ServingRuntime .* with the name missing"),
        (
            {"runtimeVersion": "2.4.1-gpu"},
            r"tensorflow/serving:2\.4\.1-gpu of tensorflow-runtime cannot load",
        ),
    ],
)
def test_the_runtime_and_version_that_the_service_names_are_judged(fields, message, deploy, cluster, cloud):
    """utils.go: GetServingRuntime, UpdateImageTag. An administrator has set them; they stay."""
    cluster.runtimes = [runtime("tensorflow/serving:2.16.1")]
    deploy(0)
    cluster.namespace_runtimes = [of_namespace("tensorflow/serving:2.3.0", "old")]
    cluster.namespace_runtimes[0]["spec"]["supportedModelFormats"][0]["autoSelect"] = False
    cluster.objects["team/flowers"]["spec"]["predictor"]["model"] |= fields
    cloud.requests.clear()
    with pytest.raises((CheckFailedError, UnavailableError), match=message):
        deploy(1)
    assert cloud.requests == []


def test_a_service_that_is_stopped_is_refused_before_the_upload(each_mode, deploy, cluster, cloud, models):
    deploy(0)
    cluster.objects["team/flowers"]["metadata"]["annotations"]["serving.kserve.io/stop"] = "true"
    cluster.writes.clear()
    with pytest.raises(
        CheckFailedError, match=r"is stopped by its annotation serving\.kserve\.io/stop"
    ) as caught:
        deploy(1)
    assert "annotate inferenceservice flowers serving.kserve.io/stop- --namespace=team" in caught.value.remedy
    assert cluster.writes == []
    assert cloud.contents(storage_of(models, 1).removeprefix("gs://photos/") + "/") == {}


def test_a_name_that_kserve_cannot_serve_is_refused(each_mode, deploy):
    assert deploy(0, deploy_name=LONGEST).verified
    with pytest.raises(
        InvalidArgumentError, match=r"deploy_name=.* is not a valid name for kserve"
    ) as caught:
        deploy(0, deploy_name=f"{LONGEST}a")
    assert "at most 46" in caught.value.remedy


def test_the_reason_why_kserve_cannot_create_its_objects_is_in_the_error(deploy, cluster):
    """E.g. a quota, or a policy of the cluster."""
    cluster.refused_objects = "exceeded quota: team, requested: count/deployments.apps=1"
    with pytest.raises(CheckFailedError, match="KServe cannot create the pods: exceeded quota: team"):
        deploy(0, deploy_timeout_seconds=1)


def test_a_specification_that_a_webhook_refuses_is_not_taken_for_missing_rights(deploy, cluster):
    deploy(0)
    cluster.objects["team/flowers"]["spec"]["predictor"]["minReplicas"] = -1
    with pytest.raises(UnavailableError, match=r"admission webhook .* MinReplicas") as caught:
        deploy(1)
    assert "change what the message names" in caught.value.remedy


@pytest.mark.parametrize("values", [{}, {"serving_image": "imgpipe:1"}])
def test_a_cluster_without_a_runtime_for_tensorflow_is_refused(values, deploy, cluster):
    cluster.runtimes = [runtime("imgpipe:1", disabled=True)]
    with pytest.raises(UnavailableError, match="no ServingRuntime for TensorFlow"):
        deploy(0, **values)
    assert cluster.objects == {}


def test_the_reason_why_kserve_creates_no_pods_is_in_the_error(each_mode, deploy, cluster):
    cluster.forbidden.add("servingruntimes")
    cluster.runtimes = []
    with pytest.raises(CheckFailedError, match="rejects the specification: No runtime found to support"):
        deploy(0, deploy_timeout_seconds=1)


def test_runtimes_that_may_not_be_read_are_a_warning(deploy, cluster, capsys):
    cluster.forbidden.add("servingruntimes")
    assert deploy(0).verified
    assert "runtime_not_checked" in capsys.readouterr().out


def test_a_model_on_a_volume_is_served_and_found(on_kserve, cluster, models, tmp_path, monkeypatch):
    values = {**on_kserve, "deploy_dir": "pvc://models/serving/flowers"}
    with pytest.raises(InvalidArgumentError, match="volume models, which this step does not mount"):
        deploy_to_kserve(models[0], DeployArguments(**values))
    monkeypatch.setenv("IMGPIPE_VOLUMES", json.dumps({"models": str(tmp_path / "mount")}))

    def objects(uri):
        root = tmp_path / "mount" / uri.removeprefix("pvc://models/")
        files = [path for path in root.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    cluster.load = load_from(SimpleNamespace(objects=objects))
    deployment = deploy_to_kserve(models[0], DeployArguments(**values))
    uri = f"pvc://models/serving/flowers/{model_digest(models[0])[:16]}"
    assert (deployment.changed, deployment.verified) == (True, True)
    assert predictor(cluster)["model"]["storageUri"] == uri
    with local_model(find_serving_model(DeployArguments(**values))) as found:
        assert (found / "saved_model.pb").read_bytes() == (models[0] / "saved_model.pb").read_bytes()
    assert not deploy_to_kserve(models[0], DeployArguments(**values)).changed


@pytest.mark.parametrize("deploy_dir", ["pvc://", "pvc://models/../x", "pvc://Models/x", "pvc://models//x"])
def test_a_wrong_path_on_a_volume_is_refused(deploy_dir):
    with pytest.raises(InvalidArgumentError, match="is not a path on a PersistentVolumeClaim"):
        DeployArguments(deploy_target="kserve", deploy_dir=deploy_dir, deploy_name="flowers")


@pytest.mark.parametrize(
    ("account", "secret", "warning"),
    [
        ({}, None, "has no role, and no Secret with AWS_SECRET_ACCESS_KEY; its Secrets are: none"),
        ({"secrets": [{"name": "keys"}]}, {"data": {"token": "eA=="}}, "its Secrets are: keys"),
        (
            {"secrets": [{"name": "keys"}]},
            {"data": {"AWS_SECRET_ACCESS_KEY": "eA=="}},
            "Secret keys has no annotation serving.kserve.io/s3-endpoint",
        ),
        (
            {"secrets": [{"name": "keys"}]},
            {
                "data": {"AWS_SECRET_ACCESS_KEY": "eA=="},
                "metadata": {"annotations": {"serving.kserve.io/s3-endpoint": "minio:9000"}},
            },
            "",
        ),
        ({"metadata": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}}}, None, ""),
    ],
)
def test_missing_access_to_s3_is_reported_before_the_upload(
    on_kserve, cluster, monkeypatch, capsys, account, secret, warning
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    cluster.core_objects["serviceaccounts/default"] = {"metadata": {"name": "default"}, **account}
    if secret:
        secret.setdefault("metadata", {})["name"] = "keys"
        cluster.core_objects["secrets/keys"] = secret
    check_s3_access(connect("deploy to", "team"), "")
    output = capsys.readouterr().out
    assert warning in output
    assert bool(output) == bool(warning)


def test_a_service_account_that_does_not_exist_is_an_error_unless_it_may_not_be_read(
    on_kserve, cluster, capsys
):
    with pytest.raises(MissingInputError, match="'reader'"):
        check_s3_access(connect("deploy to", "team"), "reader")
    cluster.forbidden = {"serviceaccounts"}
    check_s3_access(connect("deploy to", "team"), "reader")
    assert "not checked whether KServe can read the model" in capsys.readouterr().out
