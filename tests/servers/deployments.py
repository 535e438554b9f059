"""Deployment targets on loopback: the Kubernetes API with KServe's controller, and Vertex AI."""

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from imgpipe.components.platforms.kubernetes import kserve
from tests.servers.http_server import access_review, serve_json
from tests.servers.kubeflow import use_kubeconfig
from tests.servers.vertex_models import VertexModels


@pytest.fixture(scope="session")
def models(linear_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [linear_model(folder / str(seed), seed=seed) for seed in range(3)]


@contextmanager
def serve_target(target):
    """Serves ``target.handle(method, path, query, body)``, which returns status and JSON."""

    def respond(method, path, query, body):
        return target.handle(method, path, query, json.loads(body) if body else None)

    with serve_json(respond) as target.address:
        yield target


@dataclass
class Cluster:
    """A Kubernetes API server with KServe's controller, which advances by one step per read.

    Attributes:
        broken: Storage URIs that no server can load.
        steps: Reads until a revision is ready.
        down: Whether the controller is stopped, so that no revision becomes ready.
        unavailable: Whether the API server is down.
        objects: InferenceServices by namespace and name.
        conflicts: Number of replacements that will fail because of a newer version.
        writes: Methods of the requests that changed something.
        denied: What the account may not do; see ``access_review``.
    """

    address: str = ""
    broken: set[str] = field(default_factory=set)
    steps: int = 2
    down: bool = False
    unavailable: bool = False
    conflicts: int = 0
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    denied: tuple[str, ...] = ()

    def handle(self, method, path, _, body):
        if (review := access_review(path, body, self.denied)) is not None:
            return review
        match = re.fullmatch(
            r"/apis/serving\.kserve\.io/v1beta1/namespaces/([^/]+)/inferenceservices(?:/([^/]+))?", path
        )
        if match is None:
            return 404, {"message": "the server could not find the requested resource"}
        namespace, name = match.groups()
        if self.unavailable:
            return 503, {"message": "not now"}
        if namespace == "forbidden":
            return 403, {"message": "inferenceservices is forbidden"}
        if method != "GET":
            self.writes.append(method)
        if method == "POST":
            key = f"{namespace}/{body['metadata']['name']}"
            if key in self.objects:
                return 409, {"message": "already exists"}
            body["metadata"].update(generation=1, resourceVersion="1")
            body["status"] = {}
            self.objects[key] = body
            return 201, body
        key = f"{namespace}/{name}"
        if key not in self.objects:
            return 404, {"message": f'inferenceservices "{name}" not found'}
        found = self.objects[key]
        if method == "DELETE":
            return 200, self.objects.pop(key)
        if method == "PUT":
            version = found["metadata"]["resourceVersion"]
            if self.conflicts or body["metadata"]["resourceVersion"] != version:
                self.conflicts -= 1
                return 409, {"message": "the object has been modified"}
            changed = body["spec"] != found["spec"]
            found["metadata"].update(
                annotations=body["metadata"].get("annotations", {}),
                resourceVersion=str(int(version) + 1),
                generation=found["metadata"]["generation"] + changed,
            )
            found["spec"] = body["spec"]
            found["reads"] = 0
            return 200, found
        self._reconcile(key, found)
        return 200, {name: value for name, value in found.items() if name != "reads"}

    def _reconcile(self, key, found):
        """Advances by one step, as the controller does."""
        found["reads"] = found.get("reads", 0) + 1
        if found["reads"] < 2 or self.down:
            return
        status, generation = found["status"], found["metadata"]["generation"]
        status["observedGeneration"] = generation
        predictor = status.setdefault("components", {}).setdefault("predictor", {})
        storage = found["spec"]["predictor"]["model"]["storageUri"]
        template = {**found["spec"]["predictor"], "canaryTrafficPercent": None}
        if predictor.get("template") != template:
            predictor.update(
                template=template, latestCreatedRevision=f"{key.partition('/')[2]}-predictor-{generation:05d}"
            )
        ready = predictor.get("latestReadyRevision") == predictor["latestCreatedRevision"]
        if storage in self.broken:
            status["modelStatus"] = {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"message": "DecodeWebP is not a registered op"},
            }
            return
        if found["reads"] < 2 + self.steps and not ready:
            status["modelStatus"] = {"transitionStatus": "InProgress"}
            return
        status["modelStatus"] = {"transitionStatus": "UpToDate"}
        revision = predictor["latestCreatedRevision"]
        percent = found["spec"]["predictor"].get("canaryTrafficPercent", 100)
        previous = predictor.get("latestRolledoutRevision")
        if percent == 100:
            predictor["latestRolledoutRevision"] = revision
        predictor["traffic"] = [{"revisionName": revision, "percent": percent}]
        if percent < 100 and previous:
            predictor["traffic"].append({"revisionName": previous, "percent": 100 - percent})
        predictor["latestReadyRevision"] = revision
        status["url"] = f"http://{key.partition('/')[2]}.example"
        status["conditions"] = [{"type": "Ready", "status": "True"}]


@pytest.fixture
def cluster():
    with serve_target(Cluster()) as target:
        yield target


@pytest.fixture
def vertex():
    with serve_target(VertexModels()) as target:
        yield target


@pytest.fixture
def on_kserve(cluster, cloud, monkeypatch, tmp_path):
    """Arguments of a deployment to the cluster on loopback."""
    use_kubeconfig(monkeypatch, tmp_path, cluster)
    monkeypatch.setattr(kserve, "POLL_SECONDS", 0.01)
    return {"deploy_target": "kserve", "deploy_dir": "gs://photos/serving/flowers", "namespace": "team"}


@pytest.fixture
def on_vertex(vertex, cloud):
    """Arguments of a deployment to Vertex AI on loopback."""
    return {
        "deploy_target": "vertex",
        "deploy_dir": "gs://photos/serving/flowers",
        "project": "flowers",
        "region": "europe-west4",
        "vertex_endpoint": vertex.address,
    }


@pytest.fixture(params=["kserve", "vertex"])
def deployment(request):
    """``on_kserve`` and ``on_vertex`` in turn."""
    return request.getfixturevalue(f"on_{request.param}")
