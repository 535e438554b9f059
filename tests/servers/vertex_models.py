"""Vertex AI's model registry and endpoints, on loopback."""

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
        broken: Model versions with servers that do not start.
        wrong: Deployed models that respond with an error, by the number of their deployment.
        slow: Number of times that a deployment's operation has not ended yet when it is asked for.
        cancels: Whether cancelling ends such an operation; otherwise it completes nevertheless.
        parent: The only accessible project and region.
        predict: ``predict(artifact_uri, instances)`` returns the predictions of a deployed model; by default
            the same for every image.
    """

    address: str = ""
    parent: str = "projects/flowers/locations/europe-west4"
    predict: Callable[[str, list[Any]], list[Any]] = lambda _, instances: [
        {"key": instance["key"], "classes": 1, "probabilities": [0.25, 0.75]} for instance in instances
    ]
    broken: set[str] = field(default_factory=set)
    wrong: set[int] = field(default_factory=set)
    models: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    slow: int = 0
    cancels: bool = True
    operations: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    predictions: int = 0
    deployments: int = 0

    def handle(self, method, path, query, body):
        parent = self.parent
        # A dedicated endpoint has an address of its own.
        dedicated, path = re.fullmatch(r"(?:/dedicated/(\d+))?/?(?:(?:v1|ui)/)?(.*)", path).groups()
        if not path.startswith(parent):
            return _error(403, "Permission denied")
        resource = path.removeprefix(parent + "/")
        if method != "GET" and not resource.endswith(":predict"):
            self.writes.append(f"{method} {re.sub(r'[0-9]+', 'N', resource)}")
        name_filter = re.fullmatch(r'display_name="(.*)"', query.get("filter", ""))

        def matching(entries):
            return [entry for entry in entries if not name_filter or entry["displayName"] == name_filter[1]]

        if resource == "models" and method == "GET":
            return 200, {"models": matching(versions[-1] for versions in self.models.values())}
        if match := re.fullmatch(r"(endpoints/\d+/operations/\d+)(:cancel)?", resource):
            return 200, self._operation(match[1], cancelled=bool(match[2]))
        if resource == "models:upload":
            if not re.match(r"[a-z0-9-]+-docker\.pkg\.dev/", body["model"]["containerSpec"]["imageUri"]):
                return _error(400, "the image is not in Artifact Registry")
            name = body.get("parentModel") or f"{parent}/models/{len(self.models) + 1}"
            versions = self.models.setdefault(name, [])
            number = str(len(versions) + 1)
            model = {**body["model"], "name": name, "versionId": number, "createTime": "2026-01-01T00:00:00Z"}
            versions.append(model)
            return 200, self._done("UploadModelResponse", {"model": name, "modelVersionId": number})
        if match := re.fullmatch(r"(models/\d+):listVersions", resource):
            return 200, {"models": self.models[f"{parent}/{match[1]}"]}
        if match := re.fullmatch(r"(models/\d+)@(\d+)", resource):
            return 200, self.models[f"{parent}/{match[1]}"][int(match[2]) - 1]
        if resource == "endpoints" and method == "GET":
            return 200, {"endpoints": matching(self.endpoints.values())}
        if resource == "endpoints":
            number = len(self.endpoints) + 1
            name = f"{parent}/endpoints/{number}"
            is_dedicated = body.get("dedicatedEndpointEnabled")
            self.endpoints[name] = {
                **body,
                **({"dedicatedEndpointDns": f"{self.address}/dedicated/{number}"} if is_dedicated else {}),
                "name": name,
                "deployedModels": [],
                "trafficSplit": {},
                "createTime": "2026-01-01T00:00:00Z",
            }
            return 200, self._done("Endpoint", self.endpoints[name])
        match = re.fullmatch(r"(endpoints/\d+)(:\w+)?", resource)
        endpoint = self.endpoints[f"{parent}/{match[1]}"]
        if match[2] == ":predict" and (dedicated or "") != endpoint.get("dedicatedEndpointDns", "")[-1:]:
            return _error(400, "a dedicated endpoint answers at its own address only")
        return self._handle_endpoint(endpoint, method, match[2] or "", body)

    def _handle_endpoint(self, endpoint, method, verb, body):
        if verb == ":deployModel":
            model = body["deployedModel"]
            name, _, version = model["model"].partition("@")
            container = self.models[name][int(version) - 1]["containerSpec"]
            # The default account may read the copy at AIP_STORAGE_URI only.
            reads_bucket = any("gs://" in value for value in container["args"]) and not model.get(
                "serviceAccount"
            )
            if f"{name}@{version}" in self.broken or reads_bucket:
                error = {"code": 13, "message": "Model server never became ready"}
                return 200, {"name": f"{self.parent}/operations/1", "done": True, "error": error}
            self.deployments += 1
            deployed = {
                **model,
                "model": name,
                "modelVersionId": version,
                "id": model.get("id") or str(1000 + self.deployments),
                "createTime": f"2026-01-01T00:00:{self.deployments:02d}Z",
            }
            self.numbers[deployed["id"]] = self.deployments
            split = {
                deployed["id"] if key == "0" else key: share for key, share in body["trafficSplit"].items()
            }

            def complete():
                self._split(endpoint, split)
                endpoint["deployedModels"].append(deployed)
                return self._done("DeployModelResponse", {"deployedModel": deployed})

            if not self.slow:
                return 200, complete()
            operation = f"endpoints/{endpoint['name'][-1]}/operations/{self.deployments}"
            self.operations[operation] = {"polls": self.slow, "complete": complete}
            return 200, {"name": f"{self.parent}/{operation}"}
        if verb == ":undeployModel":
            removed = body["deployedModelId"]
            split = body.get("trafficSplit") or endpoint["trafficSplit"]
            # The last model may be undeployed with its traffic.
            if split.get(removed) and len(endpoint["deployedModels"]) > 1:
                return _error(400, f"{removed} has traffic")
            endpoint["deployedModels"] = [
                model for model in endpoint["deployedModels"] if model["id"] != removed
            ]
            self._split(endpoint, {key: share for key, share in split.items() if key != removed})
            return 200, self._done("UndeployModelResponse", {})
        if verb == ":predict":
            self.predictions += 1
            by_percent = [
                deployed for deployed, share in sorted(endpoint["trafficSplit"].items()) for _ in range(share)
            ]
            deployed = by_percent[self.predictions % 100]
            if self.numbers[deployed] in self.wrong:
                return _error(500, "the model crashed")
            (model,) = (found for found in endpoint["deployedModels"] if found["id"] == deployed)
            version = self.models[model["model"]][int(model["modelVersionId"]) - 1]
            predictions = self.predict(version["artifactUri"], body["instances"])
            return 200, {"predictions": predictions, "deployedModelId": deployed}
        if method == "PATCH":
            self._split(endpoint, body["trafficSplit"])
        return 200, endpoint

    def _operation(self, name, *, cancelled):
        operation = self.operations[name]
        unfinished = {"name": f"{self.parent}/{name}"}
        if cancelled:
            if self.cancels:
                error = {"code": 1, "message": "the operation was cancelled"}
                operation["result"] = {"name": f"{self.parent}/{name}", "done": True, "error": error}
            return {}
        operation["polls"] -= 1
        if operation["polls"] <= 0 and "result" not in operation:
            operation["result"] = operation["complete"]()
        return operation.get("result", unfinished)

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
