"""A Kubernetes API server with KServe 0.20's controller and webhook, and predictors that answer requests.

Time passes as on a cluster, only faster: every request first advances the controllers to the present.
A predictor loads its model from the storage on loopback, with TensorFlow, and answers over HTTP.
"""

import base64
import copy
import hashlib
import json
import random
import re
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpipe.components.images.probe_image import probe_image
from tests.servers.http_server import access_review, serve_target

STANDARD, KNATIVE = "Standard", "Knative"
STORAGE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
# Ways in which the predictors of a storage URI differ from a good server.
CRASHES, EARLY_PORT, OTHER_ANSWERS, OTHER_LABELS, NO_SIGNATURE, NEVER_READY, INTERNAL_ERROR = (
    "crashes",
    "opens its port early",
    "answers differently",
    "names other labels",
    "has no such signature",
    "never becomes ready",
    "fails on each request",
)
_FRAMEWORKS = {"model", "tensorflow", "triton", "onnx", "sklearn", "xgboost", "pytorch", "huggingface"}
# kserve/kserve v0.20.0, pkg/constants/constants.go: ServiceAnnotationDisallowedList. All other annotations of
# the service are copied to the pods.
_NOT_COPIED = {
    "autoscaling.knative.dev/min-scale",
    "autoscaling.knative.dev/max-scale",
    STORAGE_URI,
    "kubectl.kubernetes.io/last-applied-configuration",
    "serving.kserve.io/model-format",
}


@dataclass
class Pod:
    """A pod of a predictor, with the template that it was made from."""

    name: str
    template: dict[str, Any]
    created: float
    behaviour: str
    start_seconds: float
    model: Any = None
    deleted: bool = False

    @property
    def uri(self):
        """The storage URI of its model."""
        return self.template["annotations"][STORAGE_URI]

    def is_loaded(self, now):
        """Whether the server can answer."""
        return self._age(now) >= 1 and self.behaviour not in (CRASHES, NEVER_READY)

    def is_ready(self, now):
        """Whether its probe, a connection to the port, passes.

        kserve/kserve v0.20.0, reconcilers/deployment/deployment_reconciler.go, setDefaultReadinessProbe: the
        default is a TCP socket, so that a server which opens its port before it has loaded the model is ready
        too early.
        """
        if self.behaviour == NEVER_READY:
            return False
        if self.behaviour in (CRASHES, EARLY_PORT) and 0.2 <= self._age(now) < 1:
            return True
        return self.is_loaded(now)

    def has_crashed(self, now):
        """Whether its container has ended with an error, and waits for the next start."""
        return self.behaviour == CRASHES and self._age(now) >= 1

    def _age(self, now):
        return (now - self.created) / max(self.start_seconds, 1e-6)


@dataclass
class Workload:
    """The Deployment of a service, or its Knative Service with a pod for each revision."""

    template: dict[str, Any] = field(default_factory=dict)
    generation: int = 0
    changed: float = 0.0
    pods: list[Pod] = field(default_factory=list)
    percent: int | None = None
    rolled_out: str = ""
    rolled_out_before: str = ""
    traffic: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Cluster:
    """A Kubernetes API server with KServe.

    Attributes:
        mode: The cluster's default deployment mode.
        behaviours: How the predictors of a storage URI misbehave.
        start_seconds: Time from the creation of a pod until its server has loaded the model.
        reconcile_seconds: Time until a controller acts on a change.
        unavailable: Whether the API server is down.
        flaky: Probability that the API server rejects a request with a transient error, or drops it.
        forbidden: Plurals that the account may not read.
        blocked: Whether a network policy drops requests to the predictors.
        conflicts: Number of replacements that will fail because of a newer version.
        runtimes: ClusterServingRuntimes.
        namespace_runtimes: ServingRuntimes.
        refused_objects: Why the API server refuses the objects that the controller makes; "" = it does not.
        objects: InferenceServices by namespace and name.
        writes: Methods of the requests that changed something.
        denied: What the account may not do; see ``access_review``.
    """

    address: str = ""
    mode: str = KNATIVE
    behaviours: dict[str, str] = field(default_factory=dict)
    start_seconds: float = 0.05
    reconcile_seconds: float = 0.01
    unavailable: bool = False
    flaky: float = 0.0
    forbidden: set[str] = field(default_factory=set)
    blocked: bool = False
    conflicts: int = 0
    runtimes: list[dict[str, Any]] = field(default_factory=lambda: [runtime("imgpipe:1")])
    namespace_runtimes: list[dict[str, Any]] = field(default_factory=list)
    refused_objects: str = ""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    denied: tuple[str, ...] = ()
    load: Any = None
    core_objects: dict[str, dict] = field(default_factory=dict)
    draw: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - not for secrets
    workloads: dict[str, Workload] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    # ------------------------------------------------------------ requests

    def intercept(self, handler):
        """Drops requests, and routes those to predictors by their Host header, as Knative's ingress does."""
        if handler.path.startswith("/apis") or handler.path.startswith("/api/"):
            if self.flaky and self.draw.random() < self.flaky / 2:
                handler.close_connection = True
                return True
            return False
        with self._lock:
            self._advance()
            status, content = self._predict(handler)
        if status is None:
            handler.close_connection = True
            return True
        handler.send(status, json.dumps(content).encode(), Content_Type="application/json")
        return True

    def handle(self, method, path, query, body):
        """Returns status and JSON of a request to the API server."""
        if (review := access_review(path, body, self.denied)) is not None:
            return review
        if self.unavailable:
            return 503, {"message": "not now"}
        if self.flaky and self.draw.random() < self.flaky / 2:
            return self.draw.choice((429, 500, 503)), {"message": "try again"}
        with self._lock:
            self._advance()
            return self._respond(method, path, query, body)

    def _respond(self, method, path, query, body):
        match = re.fullmatch(
            r"/(?:api|apis)/(?:[^/]+/)?v[^/]+(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?", path
        )
        if match is None:
            return 404, {"message": "the server could not find the requested resource"}
        namespace, plural, name = match.groups()
        if namespace == "forbidden" or plural in self.forbidden:
            return 403, {"message": f"{plural} is forbidden"}
        key = f"{namespace}/{name}"
        if plural == "inferenceservices":
            return self._service(method, namespace, key, body)
        if plural == "clusterservingruntimes":
            return 200, {"items": self.runtimes}
        if plural == "servingruntimes":
            return 200, {"items": self.namespace_runtimes}
        if plural == "deployments":
            found = self._deployment(f"{namespace}/{name.removesuffix('-predictor')}")
        elif plural == "revisions":
            found = self._revision(namespace, name)
        elif plural == "pods":
            return 200, {"items": self._pods(namespace, query.get("labelSelector", ""))}
        elif plural in ("serviceaccounts", "secrets"):
            found = self.core_objects.get(f"{plural}/{name}")
        else:
            found = None
        return (200, found) if found else (404, {"message": f'{plural} "{name}" not found'})

    def _service(self, method, namespace, key, body):
        if method != "GET":
            self.writes.append(method)
        if method == "POST":
            return self.create(namespace, body)
        if key not in self.objects:
            return 404, {"message": f'inferenceservices "{key}" not found'}
        found = self.objects[key]
        if method == "DELETE":
            self.workloads.pop(key)
            return 200, self.objects.pop(key)
        if method == "PUT":
            version = found["metadata"]["resourceVersion"]
            if self.conflicts or body["metadata"]["resourceVersion"] != version:
                self.conflicts -= 1
                return 409, {"message": "the object has been modified"}
            self._default(body)
            if problem := _refused(body, found):
                return 403, {"message": problem}
            changed = body["spec"] != found["spec"]
            found["metadata"].update(
                annotations=body["metadata"].get("annotations", {}),
                resourceVersion=str(int(version) + 1),
                generation=found["metadata"]["generation"] + changed,
            )
            found["spec"] = body["spec"]
            self._touch(key)
        return 200, copy.deepcopy(found)

    def create(self, namespace, body):
        """Creates an InferenceService, as any client may."""
        key = f"{namespace}/{body['metadata']['name']}"
        if key in self.objects:
            return 409, {"message": "already exists"}
        body["metadata"].update(generation=1, resourceVersion="1")
        self._default(body)
        if problem := _refused(body):
            return 403, {"message": problem}
        self.objects[key] = {**body, "status": {}}
        self.workloads[key] = Workload()
        self._touch(key)
        return 201, self.objects[key]

    def _default(self, body):
        """Writes defaults back, as the webhook does.

        kserve/kserve v0.20.0, pkg/apis/serving/v1beta1/inference_service_defaults.go: DefaultInferenceService
        and setPredictorModelDefaults; the empty fields come from Go's serialization of the container.
        """
        annotations = body["metadata"].setdefault("annotations", {})
        if self.mode == STANDARD:
            annotations.setdefault("serving.kserve.io/deploymentMode", STANDARD)
        model = body["spec"]["predictor"]["model"]
        annotations.setdefault("serving.kserve.io/model-format", model["modelFormat"]["name"])
        model.setdefault("name", "")
        model.setdefault("resources", {})

    def _touch(self, key):
        self.workloads[key].changed = time.monotonic()

    # ------------------------------------------------------------ controllers

    def _advance(self):
        now = time.monotonic()
        for key, service in self.objects.items():
            workload = self.workloads[key]
            if now - workload.changed < self.reconcile_seconds:
                continue
            is_knative = self._is_knative(service)
            problem = self.refused_objects or _too_long(service["metadata"]["name"], is_knative=is_knative)
            if problem:
                # kserve/kserve v0.20.0, components/predictor.go: Reconcile.
                condition = {"status": "False", "reason": "ReconcileFailed", "message": problem}
                service["status"]["deploymentMode"] = KNATIVE if is_knative else STANDARD
                service["status"]["conditions"] = [{"type": "PredictorReady", **condition}]
                continue
            if self._runtime(service) is None:
                # kserve/kserve v0.20.0, components/predictor.go: with no runtime there is no workload;
                # the image of the model does not matter.
                service["status"]["modelStatus"] = {
                    "transitionStatus": "InvalidSpec",
                    "lastFailureInfo": {
                        "reason": "NoSupportingRuntime",
                        "message": "No runtime found to support specified framework/version",
                    },
                }
                continue
            template = self._template(service)
            if template != workload.template:
                workload.template = template
                workload.generation += 1
                self._start_pod(key, workload, template)
            workload.percent = service["spec"]["predictor"].get("canaryTrafficPercent")
            if is_knative:
                self._advance_knative(service, workload, now)
            else:
                self._advance_standard(service, workload, now)

    def _runtime(self, service):
        wanted = service["spec"]["predictor"]["model"].get("runtime")
        known = [*self.namespace_runtimes, *self.runtimes]
        if wanted:
            return next((found for found in known if found["metadata"]["name"] == wanted), None)
        return next(filter(_is_supporting, known), None)

    def _is_knative(self, service):
        # kserve/kserve v0.20.0, inferenceservice/utils/utils.go: GetDeploymentMode.
        annotations = service["metadata"].get("annotations", {})
        return annotations.get("serving.kserve.io/deploymentMode", self.mode) == KNATIVE

    def _template(self, service):
        # kserve/kserve v0.20.0, components/predictor.go: buildPredictorResources.
        predictor = service["spec"]["predictor"]
        annotations = {
            name: value
            for name, value in service["metadata"].get("annotations", {}).items()
            if name not in _NOT_COPIED
        }
        return {
            "annotations": {
                **annotations,
                **predictor.get("annotations", {}),
                STORAGE_URI: predictor["model"]["storageUri"],
            },
            "image": predictor["model"].get("image", "runtime"),
            "serviceAccountName": predictor.get("serviceAccountName", "default"),
        }

    def _start_pod(self, key, workload, template):
        kept = [pod for pod in workload.pods if pod.template == template and not pod.deleted]
        if kept and not self._is_knative(self.objects[key]):
            # A Deployment whose template becomes an earlier one uses the ReplicaSet of that template again.
            for pod in workload.pods:
                pod.deleted = pod.deleted or pod.template != template
            return
        uri = template["annotations"][STORAGE_URI]
        model = self.load(uri)
        behaviour = self.behaviours.get(uri, "") if model else CRASHES
        name = f"{key.partition('/')[2]}-predictor-{workload.generation:05d}"
        workload.pods.append(Pod(name, template, time.monotonic(), behaviour, self.start_seconds, model))

    def _advance_standard(self, service, workload, now):
        new = next(pod for pod in reversed(workload.pods) if pod.template == workload.template)
        if new.is_ready(now):
            # maxUnavailable 25 % of one replica is 0: old pods are removed when the new one is ready.
            for pod in workload.pods:
                pod.deleted = pod.deleted or pod is not new
        status = service["status"]
        # kserve/kserve v0.20.0, inference_service_status.go: PropagateRawStatus. While a pod of any template
        # is available, the conditions stay True, and observedGeneration is the Deployment's.
        status["observedGeneration"] = workload.generation
        status["deploymentMode"] = STANDARD
        status["modelStatus"] = {"transitionStatus": "UpToDate"}
        host = f"{service['metadata']['name']}.example"
        status["url"] = f"http://{host}"
        status["address"] = {"url": self.address}
        if any(pod.is_ready(now) for pod in self._live(workload)):
            status["conditions"] = [{"type": "Ready", "status": "True"}]
        elif "conditions" not in status or new.has_crashed(now):
            status["conditions"] = [
                {"type": "Ready", "status": "False", "reason": "MinimumReplicasUnavailable"}
            ]

    def _advance_knative(self, service, workload, now):
        live = self._live(workload)
        created = live[-1]
        ready = next((pod for pod in reversed(live) if pod.is_ready(now) and not pod.has_crashed(now)), None)
        status = service["status"]
        predictor = status.setdefault("components", {}).setdefault("predictor", {})
        predictor["latestCreatedRevision"] = created.name
        status["observedGeneration"] = workload.generation
        status["deploymentMode"] = KNATIVE
        status["url"] = f"http://{service['metadata']['name']}.example"
        status["address"] = predictor["address"] = {"url": self.address}
        if ready is None:
            status.setdefault("conditions", [{"type": "Ready", "status": "Unknown"}])
            return
        # Knative resolves the target latestRevision to the latest *ready* revision.
        # kserve/kserve v0.20.0, reconcilers/knative/ksvc_reconciler.go: createKnativeService.
        latest = {"latestRevision": True, "revisionName": ready.name, "percent": 100}
        if "serving.kserve.io/enable-tag-routing" in workload.template["annotations"]:
            latest["tag"] = "latest"
        targets = [latest]
        if workload.percent is not None and workload.rolled_out:
            latest["percent"] = workload.percent
            if workload.percent < 100:
                rest = {"revisionName": workload.rolled_out, "percent": 100 - workload.percent, "tag": "prev"}
                targets.append(rest)
        # inference_service_status.go: PropagateStatus.
        if workload.rolled_out != ready.name:
            if latest["percent"] == 100:
                workload.rolled_out_before, workload.rolled_out = workload.rolled_out, ready.name
        elif ready is created and latest["percent"] < 100 and workload.rolled_out_before:
            # The rest goes to the revision before from the next reconciliation on.
            workload.rolled_out = workload.rolled_out_before
        workload.traffic = targets
        predictor.update(
            traffic=copy.deepcopy(targets),
            latestReadyRevision=ready.name,
            latestRolledoutRevision=workload.rolled_out,
            previousRolledoutRevision=workload.rolled_out_before,
        )
        status["conditions"] = [{"type": "Ready", "status": "True"}]

    def _live(self, workload):
        return [pod for pod in workload.pods if not pod.deleted]

    # ------------------------------------------------------------ objects below the service

    def _deployment(self, key):
        workload = self.workloads.get(key)
        if workload is None or not workload.pods or self._is_knative(self.objects[key]):
            return None
        now = time.monotonic()
        live = self._live(workload)
        updated = [pod for pod in live if pod.template == workload.template]
        return {
            "metadata": {"generation": workload.generation},
            "spec": {
                "replicas": 1,
                "template": {"metadata": {"annotations": workload.template["annotations"]}},
            },
            "status": {
                "observedGeneration": workload.generation,
                "replicas": len(live),
                "updatedReplicas": len(updated),
                "availableReplicas": sum(pod.is_ready(now) for pod in live),
            },
        }

    def _revision(self, namespace, name):
        key = f"{namespace}/{name.rpartition('-predictor-')[0]}"
        now = time.monotonic()
        for pod in self.workloads[key].pods if key in self.workloads else ():
            if pod.name == name:
                state = "False" if pod.has_crashed(now) else "True" if pod.is_ready(now) else "Unknown"
                condition = {"type": "Ready", "status": state, "message": f"Container failed with: {pod.uri}"}
                metadata = {"name": name, "annotations": pod.template["annotations"], **_times(pod)}
                return {"metadata": metadata, "status": {"conditions": [condition]}}
        return None

    def _pods(self, namespace, selector):
        now = time.monotonic()
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        pods = [
            _pod_object(pod, now)
            for key, workload in self.workloads.items()
            if key.startswith(f"{namespace}/")
            for pod in self._live(workload)
        ]
        return [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]

    # ------------------------------------------------------------ predictors

    def _predict(self, handler):
        """Returns status and content of a request to a service; no status drops the connection."""
        match = re.fullmatch(r"/v1/models/([^/:]+)(:predict)?", handler.path)
        if match is None:
            return 404, {"error": "not found"}
        key = next((key for key in self.objects if key.endswith(f"/{match[1]}")), "")
        if not key or self.blocked:
            return None, None
        pod = self._routed(key, handler.headers["Host"].startswith("latest-"))
        if pod is None or not pod.is_loaded(time.monotonic()):
            return None, None
        return self.answer(pod, json.loads(handler.body or b"{}"))

    def _routed(self, key, is_latest):
        workload, now = self.workloads[key], time.monotonic()
        if not self._is_knative(self.objects[key]):
            ready = [pod for pod in self._live(workload) if pod.is_ready(now)]
            return self.draw.choice(ready) if ready else None
        if not workload.traffic:
            return None
        shares = [target["percent"] for target in workload.traffic]
        target = workload.traffic[0] if is_latest else self.draw.choices(workload.traffic, shares)[0]
        return next(pod for pod in workload.pods if pod.name == target["revisionName"])

    def answer(self, pod, request):
        """Returns the response of a pod's server, from the model that it has loaded."""
        if pod.behaviour == INTERNAL_ERROR:
            # tensorflow/serving 2.21, util/net_http: the text of the graph's error as JSON.
            return 500, {"error": "Matrix size-incompatible"}
        signature = request.get("signature_name", "serving_default")
        if pod.behaviour == NO_SIGNATURE or signature not in pod.model.signatures:
            return 400, {"error": f'Serving signature key "{signature}" not found'}
        rows = answers(pod.model, request["instances"], signature)
        for row in rows:
            if pod.behaviour == OTHER_ANSWERS:
                row["probabilities"] = row["probabilities"][::-1]
            if pod.behaviour == OTHER_LABELS and "labels" in row:
                row["labels"] = row["labels"][::-1]
        return 200, {"predictions": rows}

    def specify(self, uri, key="team/flowers"):
        """Changes the model in the specification, like a deployment that is killed afterwards."""
        with self._lock:
            self.objects[key]["spec"]["predictor"]["model"]["storageUri"] = uri
            self._touch(key)

    def crash(self, key="team/flowers"):
        """Lets all servers of a service fail."""
        for pod in self.workloads[key].pods:
            pod.behaviour = CRASHES

    def answering(self, key="team/flowers"):
        """Returns the storage URIs whose models get requests now, with their percentage of them."""
        with self._lock:
            self._advance()
            workload, now = self.workloads.get(key), time.monotonic()
            if workload is None:
                return {}
            found = {}
            if self._is_knative(self.objects[key]):
                for target in workload.traffic:
                    pod = next(pod for pod in workload.pods if pod.name == target["revisionName"])
                    if target["percent"] and pod.is_loaded(now):
                        found[pod.uri] = found.get(pod.uri, 0) + target["percent"]
                return found
            loaded = [pod.uri for pod in self._live(workload) if pod.is_ready(now) and pod.is_loaded(now)]
            return {uri: 100 * loaded.count(uri) / len(loaded) for uri in loaded}


def runtime(image, **fields):
    """Returns a ClusterServingRuntime for TensorFlow models."""
    return {
        "metadata": {"name": "tensorflow-runtime"},
        "spec": {
            "supportedModelFormats": [{"name": "tensorflow", "autoSelect": True, "priority": 2}],
            "protocolVersions": ["v1", "grpc-v1"],
            "containers": [{"name": "kserve-container", "image": image}],
            **fields,
        },
    }


def _refused(body, found=None):
    """Returns the refusal of the webhook; "" if there is none.

    kserve/kserve v0.20.0, pkg/apis/serving/v1beta1, inference_service_validation.go:
    validateInferenceServiceName, validatePredictor, validateDeploymentMode; component.go: validateReplicas,
    validateExactlyOneImplementation.
    """
    predictor = body["spec"]["predictor"]
    mode = body["metadata"]["annotations"].get("serving.kserve.io/deploymentMode")
    mode_before = found and found["status"].get("deploymentMode")
    least, most = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    problem = ""
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", body["metadata"]["name"]):
        problem = "the name is invalid"
    elif predictor["model"]["name"]:
        problem = "the 'name' field is not allowed in standard predictor"
    elif mode and mode_before and mode != mode_before:
        problem = f"update rejected: deploymentMode cannot be changed from '{mode_before}' to '{mode}'"
    elif least < 0 or most < 0 or (most and least > most):
        problem = "MinReplicas cannot be greater than MaxReplicas"
    elif len(_FRAMEWORKS & predictor.keys()) != 1:
        problem = "Exactly one of [Custom, ONNX, Tensorflow, Model, ...] must be specified"
    webhook = "inferenceservice.kserve-webhook-server.validator"
    return problem and f'admission webhook "{webhook}" denied the request: {problem}'


def _too_long(name, *, is_knative):
    """Returns why an object that the controllers make with a service's name is refused; "" if none is.

    kserve/kserve v0.20.0, pkg/constants/constants.go: PredictorServiceName, GetRawServiceLabel (the label
    "app" of the pods); knative/serving, pkg/reconciler/route/domains: HostnameFromTemplate (a Service for
    each tag).
    """
    longest = f"latest-{name}-predictor" if is_knative else f"isvc.{name}-predictor"
    return f'"{longest}" is invalid: must be no more than 63 bytes' if len(longest) > 63 else ""


def _is_supporting(found):
    """Returns whether KServe selects a runtime: predictor_model.go, GetSupportingRuntimes."""
    spec = found["spec"]
    if spec.get("multiModel") or spec.get("workerSpec"):
        return False
    return not spec.get("disabled") and any(
        supported["name"] == "tensorflow" and supported.get("autoSelect")
        for supported in spec["supportedModelFormats"]
    )


def answers(model, instances, signature="serving_default"):
    """Returns the predictions of a loaded model, as TensorFlow Serving's REST API has them."""
    outputs = model.call(
        [base64.b64decode(instance["image_bytes"]["b64"]) for instance in instances],
        [instance["key"] for instance in instances],
        signature,
    )
    return [
        {name: _plain(values[number]) for name, values in outputs.items()} for number in range(len(instances))
    ]


def _plain(value):
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _times(pod):
    seconds = int(pod.created)
    clock = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return {"creationTimestamp": f"2026-01-01T{clock}Z"}


def _pod_object(pod, now):
    state = {"running": {}}
    restarts = 0
    if pod.has_crashed(now):
        restarts = 3
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
    ready = "True" if pod.is_ready(now) else "False"
    # The second is Knative's.
    labels = {
        "app": f"isvc.{pod.name.rpartition('-')[0]}",
        "serving.knative.dev/revision": pod.name,
        "serving.kserve.io/inferenceservice": pod.name.rpartition("-predictor-")[0],
    }
    metadata = {"name": pod.name, "labels": labels, "annotations": pod.template["annotations"]}
    return {
        "metadata": {**metadata, **_times(pod)},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [
                {
                    "name": "kserve-container",
                    "image": pod.template["image"],
                    "imageID": "",
                    "ready": ready == "True",
                    "restartCount": restarts,
                    "state": state,
                }
            ],
        },
    }


_loaded: dict[str, Any] = {}


def load_from(cloud: Any) -> Any:
    """Returns ``load(uri)``: the model in the bucket, loaded with TensorFlow; None if it cannot be loaded."""

    def load(uri):
        # Imported here because they load TensorFlow.
        from imgpipe.components.common.errors import PipelineError
        from imgpipe.components.common.served_model import check_probe_prediction, load_served_model

        files = cloud.objects(uri.removeprefix("gs://photos/") + "/1/")
        content = hashlib.sha256()
        for name, value in sorted(files.items()):
            content.update(name.encode() + b"\0" + hashlib.sha256(value).digest())
        key = content.hexdigest()
        if key not in _loaded:
            with tempfile.TemporaryDirectory() as folder:
                for name, value in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(value)
                try:
                    model = load_served_model(Path(folder))
                    # As our server does before it opens its port: the first request is slower.
                    check_probe_prediction(model)
                    if "top_labels" in model.signatures:
                        model.call([probe_image()], ["warm-up"], "top_labels")
                    _loaded[key] = model
                except PipelineError:
                    _loaded[key] = None
        return _loaded[key]

    return load


def serve_cluster(cluster: Cluster) -> AbstractContextManager[Cluster]:
    """Serves a cluster's API and its predictors on loopback."""
    return serve_target(cluster, cluster.intercept)
