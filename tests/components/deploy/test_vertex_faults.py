"""Random faults between the deploy step and Vertex AI: what a step reports is what is deployed."""

import random
import time
from collections import Counter

import pytest

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.verification import write_verification
from imgpipe.components.deploy import vertex as deploy_vertex
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.platforms.vertex import client
from tests.pipelines.test_random_faults import LIMITS, RandomFaults
from tests.servers.faults import start_fault_proxy
from tests.servers.http_server import serve_target
from tests.servers.vertex_models import VertexModels

CALL_SECONDS = 60


class Deployments:
    """Deploys at random, with faults, and compares every report with the endpoint."""

    def __init__(self, vertex, models, settings, proxy, faults):
        self.vertex, self.models, self.settings = vertex, models, settings
        self.proxy, self.faults, self.rng = proxy, faults, faults.rng
        self.figures = Counter()
        self.longest = 0.0

    def deployed(self):
        """Returns the version and the share of the traffic by the id of the deployed model."""
        return {
            model["id"]: (model["modelVersionId"], endpoint["trafficSplit"].get(model["id"], 0))
            for endpoint in self.vertex.endpoints.values()
            for model in endpoint["deployedModels"]
        }

    def deploy(self, number, address, percent):
        arguments = DeployArguments(
            **{**self.settings, "vertex_endpoint": address},
            serving_image="eu-docker.pkg.dev/p/images/serving:2.21",
            canary_percent=percent,
            deploy_timeout_seconds=1,
        )
        started = time.monotonic()
        try:
            return deploy_vertex.deploy_to_vertex(self.models[number], arguments)
        finally:
            self.longest = max(self.longest, time.monotonic() - started)

    def run(self):
        """Runs one deployment with faults, and the same without."""
        number, percent = self.rng.randrange(len(self.models)), self.rng.choice((10, 50, 100))
        before = self.deployed()
        self.vertex.slow = self.rng.choice((0, 0, 2, 10**9))
        self.vertex.cancels = self.rng.random() < 0.5
        self.faults.share = self.rng.choice((0.05, 0.15, 0.3))
        error = None
        try:
            made = self.deploy(number, self.proxy.address, percent)
        except PipelineError as raised:
            error = raised
        self.faults.share = 0.0
        if error is None:
            self.figures["served"] += 1
            self.check_served(made)
        else:
            self.figures["failed"] += 1
            for operation in self.vertex.operations.values():
                # What was not cancelled is completed later.
                if "result" not in operation:
                    operation["result"] = operation["complete"]()
            for identifier in self.deployed().keys() - before.keys():
                # Either it is named, or the next deployment finds it.
                assert identifier in f"{error} {error.remedy}", (identifier, error)
                self.figures["reported"] += 1
        self.vertex.slow = 0
        self.check_served(self.deploy(number, self.vertex.address, 100))
        self.vertex.operations.clear()

    def check_served(self, made):
        """Checks a report: one endpoint, one model of that version, and its share of the traffic."""
        assert len(self.vertex.endpoints) == 1
        deployed = self.deployed()
        versions = [version for version, _ in deployed.values()]
        assert len(versions) == len(set(versions)), deployed
        assert sum(share for _, share in deployed.values()) == 100
        assert dict(deployed.values())[made.version] == made.traffic_percent
        # No model was uploaded twice.
        labels = [
            model["labels"]["imgpipe-model"] for found in self.vertex.models.values() for model in found
        ]
        assert len(labels) == len(set(labels))


def soak(vertex, models, settings, count, seed):
    """Deploys until so many faults have happened; returns the figures."""
    faults = RandomFaults(random.Random(seed), count)  # noqa: S311 - not for cryptography
    with start_fault_proxy(vertex.address, faults) as proxy:
        deployments = Deployments(vertex, models, settings, proxy, faults)
        while faults.remaining:
            deployments.run()
    assert deployments.longest < CALL_SECONDS
    return {
        **deployments.figures,
        "faults": dict(faults.injected),
        "longest_seconds": round(deployments.longest, 2),
    }


@pytest.fixture
def limits(monkeypatch):
    own = {
        (deploy_vertex, "_PROBE_SECONDS"): 1.0,
        (deploy_vertex, "_UNDO_SECONDS"): 0.5,
        (client, "_OPERATION_PAUSE_SECONDS"): 0.05,
    }
    for (module, name), value in {**LIMITS, **own}.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def target(limits, monkeypatch, tmp_path):
    """The server, three models with its answers, and arguments; the models are not uploaded."""
    monkeypatch.setattr(deploy_vertex, "upload_model", lambda _, folder, digest: f"{folder}/{digest[:16]}")
    models = [tmp_path / str(number) for number in range(3)]
    for model in models:
        model.mkdir()
        (model / "saved_model.pb").write_text(model.name)
        write_verification(model, ("a", "b"), [b"image"], [[0.25, 0.75]])
    with serve_target(VertexModels()) as server:
        names = {"deploy_dir": "gs://bucket/serving/flowers", "project": "flowers", "region": "europe-west4"}
        yield server, models, {**names, "deploy_target": "vertex", "vertex_endpoint": server.address}


def test_random_faults_leave_no_deployment_unreported(target):
    print(soak(*target, 15, seed=3))


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [4, 5, 6, 7])
def test_five_hundred_random_faults_leave_no_deployment_unreported(target, seed):
    """A quarter of them each, so that a part can be run alone."""
    print(soak(*target, 125, seed=seed))
