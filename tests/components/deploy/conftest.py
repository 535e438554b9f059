"""Local servers that speak the protocols of Kubernetes (for one resource) and of Vertex AI."""

import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@pytest.fixture(scope="session")
def models(linear_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [linear_model(folder / str(seed), seed=seed) for seed in range(3)]


def served(handle):
    """Starts an HTTP server whose answers ``handle(method, path, query, body)`` gives: status and JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_): ...

        def answer(self):
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            status, content = handle(self.command, unquote(parts.path), query, body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@dataclass
class Cluster:
    """A Kubernetes API server with KServe's controller: it answers every look with one step of progress.

    Attributes:
        broken: Digests' folders that no server can load.
        steps: Looks until a revision is ready.
        objects: InferenceServices by namespace and name.
        writes: Methods of the requests that changed something.
    """

    address: str = ""
    broken: set[str] = field(default_factory=set)
    steps: int = 2
    conflicts: int = 0
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)

    def handle(self, method, path, _, body):
        match = re.fullmatch(
            r"/apis/serving\.kserve\.io/v1beta1/namespaces/([^/]+)/inferenceservices(?:/([^/]+))?", path
        )
        if match is None:
            return 404, {"message": "the server could not find the requested resource"}
        namespace, name = match.groups()
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
            found["looks"] = 0
            return 200, found
        self._reconcile(key, found)
        return 200, {name: value for name, value in found.items() if name != "looks"}

    def _reconcile(self, key, found):
        """What the controller does meanwhile."""
        found["looks"] = found.get("looks", 0) + 1
        if found["looks"] < 2:
            return
        status, generation = found["status"], found["metadata"]["generation"]
        status["observedGeneration"] = generation
        predictor = status.setdefault("components", {}).setdefault("predictor", {})
        storage = found["spec"]["predictor"]["model"]["storageUri"]
        if predictor.get("storage") != storage:
            predictor.update(
                storage=storage, latestCreatedRevision=f"{key.partition('/')[2]}-predictor-{generation:05d}"
            )
        if storage in self.broken:
            status["modelStatus"] = {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"message": "DecodeWebP is not a registered op"},
            }
            return
        if found["looks"] < 2 + self.steps:
            status["modelStatus"] = {"transitionStatus": "InProgress"}
            return
        status["modelStatus"] = {"transitionStatus": "UpToDate"}
        revision = predictor["latestCreatedRevision"]
        percent = found["spec"]["predictor"].get("canaryTrafficPercent", 100)
        before = predictor.get("latestRolledoutRevision")
        if percent == 100:
            predictor["latestRolledoutRevision"] = revision
        predictor["traffic"] = [{"revisionName": revision, "percent": percent}]
        if percent < 100 and before:
            predictor["traffic"].append({"revisionName": before, "percent": 100 - percent})
        predictor["latestReadyRevision"] = revision
        status["url"] = f"http://{key.partition('/')[2]}.example"
        status["conditions"] = [{"type": "Ready", "status": "True"}]


@pytest.fixture
def cluster():
    made = Cluster()
    server = served(made.handle)
    made.address = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


def _error(code, message):
    return code, {"error": {"code": code, "message": message}}


@dataclass
class Vertex:
    """Vertex AI's model registry and endpoints.

    Attributes:
        broken: Model versions whose servers do not start.
        wrong: Deployed models that answer requests with an error.
    """

    address: str = ""
    broken: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    models: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    asked: int = 0
    deployments: int = 0

    def handle(self, method, path, query, body):
        parent = "projects/flowers/locations/europe-west4"
        path = path.removeprefix("/v1/")
        if not path.startswith(parent):
            return 403, {
                "error": {"code": 403, "message": "Permission denied", "status": "PERMISSION_DENIED"}
            }
        place = path.removeprefix(parent + "/")
        if method != "GET" and not place.endswith(":predict"):
            self.writes.append(f"{method} {re.sub(r'[0-9]+', 'N', place)}")
        wanted = re.fullmatch(r'display_name="(.*)"', query.get("filter", ""))

        def listed(entries):
            return [one for one in entries if not wanted or one["displayName"] == wanted[1]]

        if place == "models" and method == "GET":
            return 200, {"models": listed(versions[-1] for versions in self.models.values())}
        if place == "models:upload":
            name = body.get("parentModel") or f"{parent}/models/{len(self.models) + 1}"
            versions = self.models.setdefault(name, [])
            number = str(len(versions) + 1)
            model = {**body["model"], "name": name, "versionId": number, "createTime": "2026-01-01T00:00:00Z"}
            versions.append(model)
            return 200, self._done("UploadModelResponse", {"model": name, "modelVersionId": number})
        if match := re.fullmatch(r"(models/\d+):listVersions", place):
            return 200, {"models": self.models[f"{parent}/{match[1]}"]}
        if match := re.fullmatch(r"(models/\d+)@(\d+)", place):
            return 200, self.models[f"{parent}/{match[1]}"][int(match[2]) - 1]
        if place == "endpoints" and method == "GET":
            return 200, {"endpoints": listed(self.endpoints.values())}
        if place == "endpoints":
            name = f"{parent}/endpoints/{len(self.endpoints) + 1}"
            self.endpoints[name] = {
                **body,
                "name": name,
                "deployedModels": [],
                "trafficSplit": {},
                "createTime": "2026-01-01T00:00:00Z",
            }
            return 200, self._done("Endpoint", self.endpoints[name])
        match = re.fullmatch(r"(endpoints/\d+)(:\w+)?", place)
        endpoint = self.endpoints[f"{parent}/{match[1]}"]
        return self._of_endpoint(endpoint, method, match[2] or "", body)

    def _of_endpoint(self, endpoint, method, verb, body):
        if verb == ":deployModel":
            model = body["deployedModel"]
            name, _, version = model["model"].partition("@")
            if f"{name}@{version}" in self.broken:
                error = {"code": 13, "message": "Model server never became ready"}
                return 200, {
                    "name": "projects/flowers/locations/europe-west4/operations/1",
                    "done": True,
                    "error": error,
                }
            self.deployments += 1
            deployed = {
                **model,
                "model": name,
                "modelVersionId": version,
                "id": str(1000 + self.deployments),
                "createTime": f"2026-01-01T00:00:{self.deployments:02d}Z",
            }
            self._split(
                endpoint, {deployed["id"] if k == "0" else k: v for k, v in body["trafficSplit"].items()}
            )
            endpoint["deployedModels"].append(deployed)
            return 200, self._done("DeployModelResponse", {"deployedModel": deployed})
        if verb == ":undeployModel":
            gone = body["deployedModelId"]
            split = body.get("trafficSplit") or endpoint["trafficSplit"]
            # The last one may go with its traffic.
            if split.get(gone) and len(endpoint["deployedModels"]) > 1:
                return _error(400, f"{gone} has traffic")
            endpoint["deployedModels"] = [one for one in endpoint["deployedModels"] if one["id"] != gone]
            self._split(endpoint, {key: share for key, share in split.items() if key != gone})
            return 200, self._done("UndeployModelResponse", {})
        if verb == ":predict":
            self.asked += 1
            place = self.asked % 100
            chosen = [
                deployed for deployed, share in sorted(endpoint["trafficSplit"].items()) for _ in range(share)
            ]
            deployed = chosen[place]
            if deployed in self.wrong:
                return _error(500, "the model crashed")
            prediction = {"key": body["instances"][0]["key"], "classes": 1, "probabilities": [0.25, 0.75]}
            return 200, {"predictions": [prediction], "deployedModelId": deployed}
        if method == "PATCH":
            self._split(endpoint, body["trafficSplit"])
        return 200, endpoint

    def _split(self, endpoint, shares):
        assert not shares or sum(shares.values()) == 100, shares
        endpoint["trafficSplit"] = {key: share for key, share in shares.items() if share}

    def _done(self, kind, content):
        name = f"type.googleapis.com/google.cloud.aiplatform.v1.{kind}"
        return {
            "name": "projects/flowers/locations/europe-west4/operations/1",
            "done": True,
            "response": {"@type": name, **content},
        }


@pytest.fixture
def vertex():
    made = Vertex()
    server = served(made.handle)
    made.address = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()
