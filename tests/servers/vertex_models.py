"""Vertex AI's model registry and endpoints, as a server of this machine answers for them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def _error(code, message):
    return code, {"error": {"code": code, "message": message}}


@dataclass
class VertexModels:
    """Vertex AI's model registry and endpoints.

    Attributes:
        broken: Model versions whose servers do not start.
        wrong: Deployed models that answer requests with an error.
        parent: The project and region that may be asked.
        predict: ``predict(artifact_uri, instances)`` gives the predictions of a deployed model; by default
            they are the same for every image.
    """

    address: str = ""
    parent: str = "projects/flowers/locations/europe-west4"
    predict: Callable[[str, list[Any]], list[Any]] = lambda _, instances: [
        {"key": one["key"], "classes": 1, "probabilities": [0.25, 0.75]} for one in instances
    ]
    broken: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    models: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    asked: int = 0
    deployments: int = 0

    def handle(self, method, path, query, body):
        parent = self.parent
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
                    "name": f"{self.parent}/operations/1",
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
            (model,) = (one for one in endpoint["deployedModels"] if one["id"] == deployed)
            version = self.models[model["model"]][int(model["modelVersionId"]) - 1]
            predictions = self.predict(version["artifactUri"], body["instances"])
            return 200, {"predictions": predictions, "deployedModelId": deployed}
        if method == "PATCH":
            self._split(endpoint, body["trafficSplit"])
        return 200, endpoint

    def _split(self, endpoint, shares):
        assert not shares or sum(shares.values()) == 100, shares
        endpoint["trafficSplit"] = {key: share for key, share in shares.items() if share}

    def _done(self, kind, content):
        name = f"type.googleapis.com/google.cloud.aiplatform.v1.{kind}"
        return {
            "name": f"{self.parent}/operations/1",
            "done": True,
            "response": {"@type": name, **content},
        }
