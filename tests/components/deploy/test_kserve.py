import pytest

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    OutputError,
    UnavailableError,
)
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.kserve import deploy_to_kserve, find_kserve_model
from imgpipe.components.platforms.kubernetes.kserve import InferenceService


@pytest.fixture
def deploy(on_kserve, models):
    """``deploy(0, canary_percent=10)`` deploys the first model with the real client."""

    def run(number, **values):
        return deploy_to_kserve(
            models[number], DeployArguments(**{**on_kserve, "deploy_timeout_seconds": 5, **values})
        )

    return run


@pytest.fixture
def served(on_kserve):
    """``served()`` returns the storage URI of the model that answers most requests."""
    return lambda: find_kserve_model(DeployArguments(**on_kserve))


def storage_of(models, number):
    return f"gs://photos/serving/flowers/{model_digest(models[number])[:16]}"


def predictor(cluster):
    return cluster.objects["team/flowers"]["spec"]["predictor"]


def traffic(cluster):
    status = cluster.objects["team/flowers"]["status"]["components"]["predictor"]
    return {target["revisionName"][-1]: target["percent"] for target in status["traffic"]}


def test_the_first_model_is_uploaded_and_served_when_it_is_ready(deploy, cluster, cloud, models):
    deployment = deploy(0, serving_service_account="reader")
    assert deployment.changed
    assert deployment.location == "http://flowers.example"
    assert deployment.traffic_percent == 100
    assert predictor(cluster) == {
        "model": {"modelFormat": {"name": "tensorflow"}, "storageUri": storage_of(models, 0)},
        "serviceAccountName": "reader",
    }
    uploaded = cloud.contents(storage_of(models, 0).removeprefix("gs://photos/") + "/1/")
    assert uploaded == {
        path.relative_to(models[0]).as_posix(): path.read_bytes()
        for path in models[0].rglob("*")
        if path.is_file()
    }


def test_deploying_the_same_model_again_changes_nothing(deploy, cluster, cloud):
    first = deploy(0)
    cluster.writes.clear()
    cloud.requests.clear()
    again = deploy(0)
    assert cluster.writes == []
    assert {method for method, _ in cloud.requests} == {"GET"}
    assert not again.changed
    assert (again.location, again.version, again.model_digest) == (
        first.location,
        first.version,
        first.model_digest,
    )


def test_a_canary_gets_its_share_and_then_all_traffic(deploy, cluster, models):
    deploy(0)
    canary = deploy(1, canary_percent=10)
    assert canary.traffic_percent == 10
    assert traffic(cluster) == {"2": 10, "1": 90}
    assert not deploy(1, canary_percent=10).changed
    promoted = deploy(1, canary_percent=100)
    assert promoted.changed
    assert promoted.traffic_percent == 100
    assert "canaryTrafficPercent" not in predictor(cluster)
    assert traffic(cluster) == {"2": 100}


def test_the_serving_model_is_the_one_with_most_traffic(deploy, cluster, served, models):
    deploy(0)
    deploy(1, canary_percent=10)
    deploy(2, canary_percent=10)
    assert traffic(cluster) == {"3": 10, "1": 90}
    assert served() == storage_of(models, 0)
    deploy(1, canary_percent=60)
    assert served() == storage_of(models, 1)
    deploy(2, canary_percent=100)
    assert served() == storage_of(models, 2)


def test_a_second_canary_that_cannot_be_loaded_leaves_the_first_unchanged(deploy, cluster, served, models):
    deploy(0)
    deploy(1, canary_percent=10)
    before = predictor(cluster)
    cluster.broken.add(storage_of(models, 2))
    with pytest.raises(CheckFailedError):
        deploy(2, canary_percent=10)
    assert predictor(cluster) == before
    # Before and after the controller has rolled back.
    for _ in range(5):
        assert served() == storage_of(models, 0)
    assert not deploy(1, canary_percent=10).changed
    assert deploy(1, canary_percent=100).traffic_percent == 100
    assert served() == storage_of(models, 1)


def test_the_first_model_gets_all_traffic_despite_canary_percent(deploy, cluster):
    assert deploy(0, canary_percent=10).traffic_percent == 100
    assert not deploy(0, canary_percent=10).changed


def test_a_model_that_cannot_be_loaded_is_rolled_back(deploy, cluster, models):
    deploy(0)
    before = predictor(cluster)
    cluster.broken.add(storage_of(models, 1))
    for percent in (100, 25):
        with pytest.raises(CheckFailedError, match=r"was rolled back.*DecodeWebP") as caught:
            deploy(1, canary_percent=percent)
        assert "the previous model still serves" in caught.value.remedy
        assert predictor(cluster) == before
    # A good model can be deployed afterwards.
    assert deploy(2).changed


def test_a_first_model_that_cannot_be_loaded_leaves_no_service(deploy, cluster, models):
    cluster.broken.add(storage_of(models, 0))
    with pytest.raises(CheckFailedError):
        deploy(0)
    assert cluster.objects == {}


def test_a_model_that_is_not_ready_in_time_is_rolled_back(deploy, cluster, models):
    deploy(0)
    before = predictor(cluster)
    cluster.steps = 10_000
    with pytest.raises(CheckFailedError, match="not ready within 1 seconds"):
        deploy(1, deploy_timeout_seconds=1)
    assert predictor(cluster) == before


def test_an_interrupted_rollout_resumes_and_can_still_roll_back(deploy, cluster, models, monkeypatch):
    deploy(0)
    before = predictor(cluster)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(InferenceService, "wait_until_ready", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(1)
    assert predictor(cluster) != before
    cluster.broken.add(storage_of(models, 1))
    with pytest.raises(CheckFailedError):
        deploy(1)
    assert predictor(cluster) == before


def test_a_conflicting_change_is_retried(deploy, cluster):
    deploy(0)
    cluster.conflicts = 2
    assert deploy(1).changed


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


def test_settings_that_do_not_become_ready_are_rolled_back(deploy, cluster):
    deploy(0)
    before = predictor(cluster)
    cluster.steps = 10_000
    with pytest.raises(CheckFailedError, match="not ready within 1 seconds"):
        deploy(0, serving_image="tensorflow-serving:broken", deploy_timeout_seconds=1)
    assert predictor(cluster) == before
