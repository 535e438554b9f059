import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.common.errors import CheckFailedError, InvalidArgumentError, UnavailableError
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.deploy.vertex import shares_with
from tests.servers.deployments import deploy_model
from tests.servers.faults import Fault, once, start_fault_proxy


@pytest.fixture
def deploy(on_vertex, models, monkeypatch):
    """``deploy(0, canary_percent=10)`` deploys the first model with the real clients."""
    monkeypatch.setattr("imgpipe.components.deploy.vertex._PROBE_SECONDS", 0.1)
    return lambda number, **values: deploy_model(models[number], on_vertex, **values)


def endpoint(vertex):
    (only,) = vertex.endpoints.values()
    return only


def versions(vertex):
    """Returns the percentage of traffic by version of the model."""
    found = endpoint(vertex)
    return {
        deployed["modelVersionId"]: found["trafficSplit"].get(deployed["id"], 0)
        for deployed in found["deployedModels"]
    }


def test_the_first_model_is_registered_deployed_and_probed(deploy, vertex, models):
    made = deploy(0)
    assert (made.version, made.traffic_percent, made.changed) == ("1", 100, True)
    assert made.location == endpoint(vertex)["name"]
    ((model,),) = vertex.models.values()
    base = f"gs://photos/serving/flowers/{model_digest(models[0])[:16]}"
    assert model["displayName"] == "flowers"
    # With the numbered folder that TensorFlow Serving looks for.
    assert model["artifactUri"] == base
    container = model["containerSpec"]
    assert container["predictRoute"] == "/v1/models/flowers:predict"
    # The default account may read nothing else.
    assert "--model_base_path=$(AIP_STORAGE_URI)" in container["args"]
    assert endpoint(vertex)["dedicatedEndpointEnabled"]
    (deployed,) = endpoint(vertex)["deployedModels"]
    assert deployed["dedicatedResources"] == {
        "machineSpec": {"machineType": "n1-standard-2"},
        "minReplicaCount": 1,
        "maxReplicaCount": 1,
    }
    assert versions(vertex) == {"1": 100}
    assert vertex.predictions >= 1


def test_the_same_model_twice_changes_nothing(deploy, vertex):
    deploy(0)
    vertex.writes.clear()
    again = deploy(0)
    assert vertex.writes == []
    assert not again.changed
    assert again.version == "1"


def test_a_new_model_is_a_version_of_the_same_model_on_the_same_endpoint(deploy, vertex):
    deploy(0)
    canary = deploy(1, canary_percent=10)
    assert (canary.version, canary.traffic_percent) == ("2", 10)
    assert len(vertex.models) == len(vertex.endpoints) == 1
    assert versions(vertex) == {"1": 90, "2": 10}
    assert not deploy(1, canary_percent=10).changed
    third = deploy(2, canary_percent=20)
    assert third.traffic_percent == 20
    # The other versions keep their proportions.
    assert versions(vertex) == {"1": 72, "2": 8, "3": 20}


def test_a_canary_is_promoted_and_old_models_are_undeployed_on_request(deploy, vertex):
    deploy(0)
    deploy(1, canary_percent=10)
    vertex.writes.clear()
    promoted = deploy(1, canary_percent=100)
    assert promoted.changed
    assert versions(vertex) == {"1": 0, "2": 100}
    assert vertex.writes == ["PATCH endpoints/N"]
    assert deploy(1, canary_percent=100, undeploy_old=True).changed
    assert versions(vertex) == {"2": 100}
    assert not deploy(1, canary_percent=100, undeploy_old=True).changed


def test_a_model_whose_server_does_not_start_leaves_the_endpoint_as_it_was(deploy, vertex):
    deploy(0)
    (name,) = vertex.models
    vertex.broken.add(f"{name}@2")
    with pytest.raises(CheckFailedError, match="never became ready"):
        deploy(1, canary_percent=50)
    assert versions(vertex) == {"1": 100}


@pytest.mark.parametrize("percent", [5, 100])
def test_a_model_that_a_killed_step_deployed_is_checked_by_the_next(percent, deploy, vertex, monkeypatch):
    deploy(0)
    vertex.wrong.add(2)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("imgpipe.components.deploy.vertex._Rollout.probe_or_roll_back", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(1, canary_percent=percent)
    vertex.writes.clear()
    with pytest.raises(CheckFailedError, match=rf"{percent}% .*the model crashed.*not changed") as caught:
        deploy(1, canary_percent=percent)
    assert "undeploy-model" in caught.value.remedy
    assert vertex.writes == []
    vertex.wrong.clear()
    assert not deploy(1, canary_percent=percent).changed


@pytest.mark.parametrize("percent", [5, 100])
def test_a_model_that_responds_with_errors_is_rolled_back(percent, deploy, vertex):
    deploy(0)
    vertex.wrong.add(2)
    with pytest.raises(CheckFailedError, match=r"was rolled back: .*the model crashed") as caught:
        deploy(1, canary_percent=percent)
    assert "the previous model serves" in caught.value.remedy
    assert versions(vertex) == {"1": 100}


def test_a_failed_promotion_restores_the_traffic_split(deploy, vertex):
    deploy(0)
    deploy(1, canary_percent=10)
    vertex.wrong.add(2)
    with pytest.raises(CheckFailedError, match="rolled back"):
        deploy(1, canary_percent=60)
    assert versions(vertex) == {"1": 90, "2": 10}


def test_a_first_model_that_responds_with_errors_is_undeployed(deploy, vertex):
    vertex.wrong.add(1)
    with pytest.raises(CheckFailedError):
        deploy(0)
    assert versions(vertex) == {}


def test_a_rejected_request_says_why(deploy):
    with pytest.raises(
        UnavailableError, match=r"Vertex AI failed to deploy the model \(HTTP 403\): Permission denied"
    ):
        deploy(0, project="another")


def test_a_model_that_answers_differently_is_rolled_back(deploy, vertex):
    deploy(0)
    answer = vertex.predict

    def answer_reversed(artifact_uri, instances):
        rows = answer(artifact_uri, instances)
        return [{**row, "probabilities": row["probabilities"][::-1]} for row in rows]

    vertex.predict = answer_reversed
    with pytest.raises(CheckFailedError, match="its answers are not those of the evaluation"):
        deploy(1, canary_percent=50)
    assert versions(vertex) == {"1": 100}


class _FirstOfEach:
    """Chooses a fault for the first request of each kind."""

    def __init__(self):
        self.seen = []

    def __call__(self, method, path):
        request = (method, path.partition("?")[0])
        if request in self.seen:
            return None
        self.seen.append(request)
        if request[1].endswith(":deployModel"):
            return Fault("status", status=429)
        kinds = [Fault("status", status=503), Fault("reset", executed=True), Fault("status", status=429)]
        return kinds[len(self.seen) % 3]


def test_busy_services_and_lost_responses_deploy_the_model_once(deploy, vertex, monkeypatch):
    monkeypatch.setattr("imgpipe.components.platforms.polling._RETRY_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("imgpipe.components.platforms.polling._MAX_RETRY_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("imgpipe.components.deploy.vertex._PROBE_SECONDS", 10)
    with start_fault_proxy(vertex.address, _FirstOfEach()) as proxy:
        made = deploy(0, vertex_endpoint=proxy.address)
        assert (made.version, made.traffic_percent, made.changed) == ("1", 100, True)
        second = deploy(1, canary_percent=10, vertex_endpoint=proxy.address)
    assert (second.traffic_percent, second.changed) == (10, True)
    assert len(vertex.models) == len(vertex.endpoints) == 1
    assert versions(vertex) == {"1": 90, "2": 10}


def test_a_deployment_whose_response_was_lost_is_not_repeated(deploy, vertex):
    """Vertex AI lists the model only when it is deployed, so a repetition could deploy it twice."""
    deploy(0)
    fault = once(Fault("reset", executed=True), "POST", ":deployModel")
    with start_fault_proxy(vertex.address, fault) as proxy:
        with pytest.raises(CheckFailedError, match="may have been started nevertheless") as caught:
            deploy(1, canary_percent=50, vertex_endpoint=proxy.address)
        assert len(proxy.injected) == 1
    assert "gcloud ai endpoints describe" in caught.value.remedy
    assert vertex.deployments == 2
    assert deploy(1, canary_percent=50).version == "2"
    assert vertex.deployments == 2


def test_machines_and_the_kind_of_the_endpoint_are_chosen(deploy, vertex):
    deploy(
        0,
        shared_endpoint=True,
        serving_machine_type="g2-standard-4",
        serving_accelerator_type="NVIDIA_L4",
        serving_accelerator_count=1,
        serving_min_replicas=2,
        serving_max_replicas=5,
        serving_spot=True,
    )
    assert "dedicatedEndpointDns" not in endpoint(vertex)
    (deployed,) = endpoint(vertex)["deployedModels"]
    resources = deployed["dedicatedResources"]
    assert resources["machineSpec"]["machineType"] == "g2-standard-4"
    assert resources["machineSpec"]["acceleratorCount"] == 1
    assert (resources["minReplicaCount"], resources["maxReplicaCount"], resources["spot"]) == (2, 5, True)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"serving_image": "tensorflow/serving:2.19.0"}, "is not in Artifact Registry"),
        ({"serving_image": "docker.pkg.dev.example.com/p/serving:1"}, "is not in Artifact Registry"),
        ({"serving_min_replicas": 3, "serving_max_replicas": 2}, "is less than"),
        ({"serving_accelerator_type": "NVIDIA_L4"}, "one of them is missing"),
        ({"serving_accelerator_type": "l4", "serving_accelerator_count": 1}, "not a name of Vertex AI"),
    ],
)
def test_a_deployment_that_vertex_ai_would_refuse_is_refused_before_the_upload(
    deploy, vertex, cloud, values, problem
):
    with pytest.raises(InvalidArgumentError, match=problem):
        deploy(0, **values)
    assert vertex.writes == []
    assert cloud.contents("serving/") == {}


def test_an_image_that_cannot_load_the_model_is_refused_before_the_upload(deploy, vertex, cloud):
    with pytest.raises(CheckFailedError, match=r"tf2-cpu\.2-3:latest .*requires TensorFlow 2\.6 or later"):
        deploy(0, serving_image="us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-3:latest")
    assert vertex.writes == []
    assert cloud.contents("serving/") == {}


@pytest.mark.parametrize(
    ("slow", "cancels", "outcome"),
    [(10**9, True, "the endpoint is unchanged"), (4, False, "completed later, and undone")],
)
def test_a_deployment_that_outlasts_its_limit_is_cancelled_or_undone(slow, cancels, outcome, deploy, vertex):
    deploy(0)
    vertex.slow, vertex.cancels = slow, cancels
    with pytest.raises(CheckFailedError, match=rf"not ended within 1 s.*{outcome}"):
        deploy(1, canary_percent=50, deploy_timeout_seconds=1)
    assert versions(vertex) == {"1": 100}


def test_a_deployment_that_never_ends_is_reported_with_the_command_that_undoes_it(
    deploy, vertex, monkeypatch
):
    monkeypatch.setattr("imgpipe.components.deploy.vertex._UNDO_SECONDS", 0.1)
    deploy(0)
    vertex.slow, vertex.cancels = 10**9, False
    with pytest.raises(CheckFailedError, match="may be completed later") as caught:
        deploy(1, canary_percent=50, deploy_timeout_seconds=1)
    (operation,) = vertex.operations.values()
    operation["complete"]()
    (late,) = (model["id"] for model in endpoint(vertex)["deployedModels"] if model["modelVersionId"] == "2")
    assert f"undeploy-model {endpoint(vertex)['name']} --deployed-model-id={late}" in caught.value.remedy


def test_the_first_model_gets_all_traffic():
    assert shares_with({}, "new", 10) == {"new": 100}
    assert shares_with({"new": 100}, "new", 10) == {"new": 100}


def test_the_others_keep_their_proportions():
    assert shares_with({"a": 60, "b": 40}, "new", 50) == {"a": 30, "b": 20, "new": 50}
    assert shares_with({"a": 100}, "new", 100) == {"a": 0, "new": 100}
    assert shares_with({"a": 90, "new": 10}, "new", 25) == {"a": 75, "new": 25}


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(1, 100))
def test_shares_are_whole_percent_and_their_sum_is_100(weights, percent):
    total = sum(weights)
    current = {f"m{number}": weight * 100 // total if total else 0 for number, weight in enumerate(weights)}
    shares = shares_with(current, "new", percent)
    assert sum(shares.values()) == 100
    assert min(shares.values()) >= 0
    assert set(shares) == {*current, "new"}
    assert shares["new"] == (percent if sum(current.values()) else 100)
    for model, share in current.items():
        if sum(current.values()):
            assert abs(shares[model] - share * (100 - percent) / sum(current.values())) < 1
