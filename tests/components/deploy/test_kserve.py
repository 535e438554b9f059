import pytest
from kubernetes import client

from imgpipe.components.common.errors import CheckFailedError, OutputError, UnavailableError
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.kserve import deploy_to_kserve, find_kserve_model


@pytest.fixture
def deploy(cluster, cloud, models):
    """``deploy(0, canary_percent=10)`` deploys the first model with the real client."""

    def run(number, **values):
        settings = {"namespace": "team", "deploy_timeout_seconds": 5, **values}
        arguments = DeployArguments(
            deploy_target="kserve", deploy_dir="gs://photos/serving/flowers", **settings
        )
        configuration = client.Configuration(host=cluster.address)
        configuration.retries = False
        with client.ApiClient(configuration) as api_client:
            return deploy_to_kserve(models[number], arguments, api_client=api_client, poll_seconds=0.01)

    return run


@pytest.fixture
def served(cluster):
    """``served()`` asks with the real client which model answers most requests."""

    def ask():
        place = DeployArguments(
            deploy_target="kserve", deploy_dir="gs://photos/serving/flowers", namespace="team"
        )
        with client.ApiClient(client.Configuration(host=cluster.address)) as api_client:
            return find_kserve_model(place, api_client=api_client)

    return ask


def storage_of(models, number):
    return f"gs://photos/serving/flowers/{model_digest(models[number])[:16]}"


def predictor(cluster):
    return cluster.objects["team/flowers"]["spec"]["predictor"]


def traffic(cluster):
    status = cluster.objects["team/flowers"]["status"]["components"]["predictor"]
    return {one["revisionName"][-1]: one["percent"] for one in status["traffic"]}


def test_the_first_model_is_uploaded_and_served_once_it_is_ready(deploy, cluster, cloud, models):
    made = deploy(0, serving_service_account="reader")
    assert made.changed
    assert made.location == "http://flowers.example"
    assert made.traffic_percent == 100
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


def test_the_same_model_twice_changes_nothing(deploy, cluster, cloud):
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


def test_a_canary_gets_its_share_and_then_everything(deploy, cluster, models):
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


def test_the_model_with_most_requests_serves_however_many_canaries_follow(deploy, cluster, served, models):
    deploy(0)
    deploy(1, canary_percent=10)
    deploy(2, canary_percent=10)
    assert traffic(cluster) == {"3": 10, "1": 90}
    assert served() == storage_of(models, 0)
    deploy(1, canary_percent=60)
    assert served() == storage_of(models, 1)
    deploy(2, canary_percent=100)
    assert served() == storage_of(models, 2)


def test_a_second_canary_that_cannot_be_loaded_leaves_the_first_as_it_was(deploy, cluster, served, models):
    deploy(0)
    deploy(1, canary_percent=10)
    before = predictor(cluster)
    cluster.broken.add(storage_of(models, 2))
    with pytest.raises(CheckFailedError):
        deploy(2, canary_percent=10)
    assert predictor(cluster) == before
    # Once when it was asked, and again when the cluster has done it.
    for _ in range(5):
        assert served() == storage_of(models, 0)
    assert not deploy(1, canary_percent=10).changed
    assert deploy(1, canary_percent=100).traffic_percent == 100
    assert served() == storage_of(models, 1)


def test_the_first_model_gets_everything_whatever_the_canary(deploy, cluster):
    assert deploy(0, canary_percent=10).traffic_percent == 100
    assert not deploy(0, canary_percent=10).changed


def test_a_model_that_cannot_be_loaded_is_taken_back(deploy, cluster, models):
    deploy(0)
    before = predictor(cluster)
    cluster.broken.add(storage_of(models, 1))
    for percent in (100, 25):
        with pytest.raises(CheckFailedError, match=r"was taken back.*DecodeWebP") as caught:
            deploy(1, canary_percent=percent)
        assert "what served before serves still" in caught.value.remedy
        assert predictor(cluster) == before
    # And a good one goes on from there.
    assert deploy(2).changed


def test_a_first_model_that_cannot_be_loaded_leaves_nothing(deploy, cluster, models):
    cluster.broken.add(storage_of(models, 0))
    with pytest.raises(CheckFailedError):
        deploy(0)
    assert cluster.objects == {}


def test_a_model_that_is_not_ready_in_time_is_taken_back(deploy, cluster, models):
    deploy(0)
    before = predictor(cluster)
    cluster.steps = 10_000
    with pytest.raises(CheckFailedError, match="not ready within 1 seconds"):
        deploy(1, deploy_timeout_seconds=1)
    assert predictor(cluster) == before


def test_an_interrupted_rollout_goes_on_and_can_still_go_back(deploy, cluster, models, monkeypatch):
    from imgpipe.components.deploy import kserve

    deploy(0)
    before = predictor(cluster)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(kserve, "_wait", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(1)
    assert predictor(cluster) != before
    cluster.broken.add(storage_of(models, 1))
    with pytest.raises(CheckFailedError):
        deploy(1)
    assert predictor(cluster) == before


def test_a_change_by_somebody_else_meanwhile_is_no_failure(deploy, cluster):
    deploy(0)
    cluster.conflicts = 2
    assert deploy(1).changed


def test_a_service_of_somebody_else_is_left_alone(deploy, cluster):
    deploy(0)
    cluster.objects["team/flowers"]["metadata"]["labels"] = {}
    with pytest.raises(OutputError, match="not one that imgpipe made"):
        deploy(1)


def test_a_refusal_is_explained(deploy):
    with pytest.raises(UnavailableError, match="403 inferenceservices is forbidden"):
        deploy(0, namespace="forbidden")


def test_other_settings_of_the_same_model_that_do_not_come_up_are_taken_back(deploy, cluster):
    deploy(0)
    before = predictor(cluster)
    cluster.steps = 10_000
    with pytest.raises(CheckFailedError, match="not ready within 1 seconds"):
        deploy(0, serving_image="tensorflow-serving:broken", deploy_timeout_seconds=1)
    assert predictor(cluster) == before
