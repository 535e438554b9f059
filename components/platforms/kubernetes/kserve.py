"""InferenceServices of KServe (serving.kserve.io/v1beta1), and the workloads that serve them.

An InferenceService's conditions stay True from the previous model while a new one starts, and its
observedGeneration is that of the object below it. What serves is read from the workload: the Deployment and
its pods in Standard mode, the Revisions and the traffic targets with Knative.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.kubernetes.client import (
    MANAGED_BY,
    Cluster,
    CustomObjects,
    check_managed,
)
from imgpipe.components.platforms.kubernetes.pods import list_pods

READY, WAITING, FAILED = "ready", "waiting", "failed"
STANDARD, KNATIVE = "Standard", "Knative"
# The annotation of our fields' fingerprint, on the pods of a predictor.
FINGERPRINT = "imgpipe/specification"
# KServe's, on the pods: the model that they serve.
STORAGE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
# With Knative, the newest revision also gets an address of its own, also without traffic.
_TAG_ROUTING = "serving.kserve.io/enable-tag-routing"
_LATEST_TAG = "latest"
_MODE = "serving.kserve.io/deploymentMode"
STOP = "serving.kserve.io/stop"
# KServe's earlier names of the modes.
_MODES = {"RawDeployment": STANDARD, "Serverless": KNATIVE}
_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_REPLACE_ATTEMPTS = 5
# A container that has failed as often as this does not recover by itself.
_MAX_RESTARTS = 3
_FAILED_PODS = ("CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")
_REMEDY = (
    "check that KServe is installed, and grant the step's service account the rights in "
    "docs/deploy.md, section KServe"
)


@dataclass(frozen=True)
class ServedModel:
    """A model that answers requests of an InferenceService now.

    Attributes:
        storage_uri: Where its server has loaded it from.
        percent: Its share of the requests.
        created: Time (RFC 3339) and name of the oldest pod or revision that serves it.
    """

    storage_uri: str
    percent: float
    created: str


class InferenceService:
    """The InferenceService of one name, whether it exists or not.

    Every method raises:
        UnavailableError: if the API server rejects a request.
        InterruptedRunError: if it does not respond.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = f"{cluster.namespace}/{name}"
        self.namespace = cluster.namespace
        self.model_name = name
        self._cluster = cluster
        self._predictor = f"{name}-predictor"
        self._services = CustomObjects(cluster, _GROUP, _VERSION, _PLURAL, remedy=_REMEDY)
        self._deployments = CustomObjects(cluster, "apps", "v1", "deployments", remedy=_REMEDY)
        self._revisions = CustomObjects(cluster, "serving.knative.dev", "v1", "revisions", remedy=_REMEDY)

    def read(self) -> dict[str, Any] | None:
        """Returns the service, or None if it does not exist.

        Raises:
            OutputError: if imgpipe did not create it.
        """
        found = self._services.read(self.model_name)
        if found is not None:
            check_managed(found, f"InferenceService {self.name}", "deploy_name")
        return found

    def create(self, spec: dict[str, Any]) -> None:
        """Creates the service."""
        body = {
            "apiVersion": f"{_GROUP}/{_VERSION}",
            "kind": "InferenceService",
            "metadata": {
                "name": self.model_name,
                "labels": MANAGED_BY,
                "annotations": {_TAG_ROUTING: "true"},
            },
            "spec": spec,
        }
        if not self._services.create(body):
            found = self.read()
            # A request whose response was lost has created it.
            if found is None or not has_same_pods(found["spec"], spec):
                raise UnavailableError(
                    f"InferenceService {self.name} was created by another client", remedy="deploy again"
                )
        log_event("service_created", f"deploy: created InferenceService {self.name}")

    def replace(self, spec: dict[str, Any]) -> None:
        """Replaces the specification; retries if another client changes the service at the same time.

        Annotations are copied to the pods: they change only together with fields that restart the pods.
        """
        for _ in range(_REPLACE_ATTEMPTS):
            current = self.read()
            if current is None:
                raise UnavailableError(f"InferenceService {self.name} was deleted", remedy="deploy again")
            body = copy.deepcopy(current)
            body["spec"] = spec
            if FINGERPRINT in _fields(spec).get("annotations", {}) and not has_same_pods(
                current["spec"], spec
            ):
                body["metadata"].setdefault("annotations", {})[_TAG_ROUTING] = "true"
            if self._services.replace(self.model_name, body):
                log_event("service_changed", f"deploy: changed InferenceService {self.name}")
                return
        raise UnavailableError(
            f"InferenceService {self.name} is being changed by another client", remedy="deploy again"
        )

    def delete(self) -> None:
        """Deletes the service if it exists."""
        self._services.delete(self.model_name)
        log_event("service_deleted", f"deploy: deleted InferenceService {self.name}")

    def rollout(self, spec: Mapping[str, Any]) -> tuple[str, str]:
        """Returns READY, WAITING or FAILED for the workload of a specification, and the reason.

        READY: all pods that get requests (with Knative, those of the newest revision) have this
        specification's model and settings, and pass their readiness probes.
        """
        service = self.read()
        if service is None:
            return FAILED, "the service was deleted"
        mode = deployment_mode(service)
        if mode == KNATIVE:
            state, reason = self._revision_rollout(service, spec)
        elif mode == STANDARD:
            state, reason = self._deployment_rollout(spec)
        else:
            state = WAITING
            reason = f"the deployment mode is {mode}" if mode else "the controller has not seen it yet"
        # Not FAILED: the status may still be about the specification before.
        return state, (_refusal(service) or reason) if state == WAITING else reason

    def _deployment_rollout(self, spec: Mapping[str, Any]) -> tuple[str, str]:
        deployment = self._deployments.read(self._predictor)
        if deployment is None:
            return WAITING, "the controller has not created the Deployment yet"
        template, status = deployment["spec"]["template"], deployment.get("status") or {}
        annotations = template.get("metadata", {}).get("annotations") or {}
        observed = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        if not _carries(annotations, spec) or not observed:
            return WAITING, "the controller has not applied the change yet"
        wanted = max(1, deployment["spec"].get("replicas") or 1)
        total, updated, available = (
            status.get(field) or 0 for field in ("replicas", "updatedReplicas", "availableReplicas")
        )
        if updated >= wanted and available >= wanted and total == updated:
            return READY, ""
        for condition in status.get("conditions") or ():
            if condition["type"] == "Progressing" and condition["status"] == "False":
                return FAILED, str(condition.get("message") or condition.get("reason"))
        reason = self._pod_failure(spec, f"app=isvc.{self._predictor}")
        if reason:
            return FAILED, reason
        return WAITING, f"{available} of {wanted} pods available, {updated} of {total} updated"

    def _revision_rollout(self, service: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[str, str]:
        name = predictor_status(service).get("latestCreatedRevision")
        revision = self._revisions.read(name) if name else None
        if revision is None or not _carries(revision["metadata"].get("annotations") or {}, spec):
            return WAITING, "the controller has not created the revision yet"
        ready = _condition(revision, "Ready")
        if ready.get("status") == "False":
            return FAILED, str(ready.get("message") or ready.get("reason") or f"revision {name} failed")
        if ready.get("status") != "True":
            reason = self._pod_failure(spec, f"serving.knative.dev/revision={name}")
            if reason:
                return FAILED, reason
            return WAITING, f"revision {name} is not ready"
        if not any(target.get("revisionName") == name for target in _traffic(service)):
            return WAITING, f"revision {name} has no address yet"
        return READY, ""

    def _pod_failure(self, spec: Mapping[str, Any], label_selector: str) -> str:
        """Returns why a pod of a specification cannot start; "" if none is known to fail."""
        for pod in list_pods(self._cluster, label_selector):
            if pod.metadata.deletion_timestamp or not _carries(pod.metadata.annotations or {}, spec):
                continue
            statuses = (pod.status.init_container_statuses or []) + (pod.status.container_statuses or [])
            for status in statuses:
                waiting = status.state and status.state.waiting
                ended = status.last_state and status.last_state.terminated
                is_failed = waiting is not None and waiting.reason in _FAILED_PODS
                if is_failed or (status.restart_count or 0) >= _MAX_RESTARTS:
                    # The reason of the exit says more than that of the pause before the next start.
                    texts = (ended and ended.message, waiting and waiting.message, waiting and waiting.reason)
                    text = next(filter(None, texts), "it exits again and again")
                    return f"pod {pod.metadata.name}: {text}"
        return ""

    def served_models(self) -> list[ServedModel]:
        """Returns the models that answer requests now, the one with most of them first, then the oldest.

        Standard: the models of the ready pods, by their number. Knative: the models of the revisions, by the
        traffic that the status reports; [] if the one with most traffic is not ready.
        """
        service = self.read()
        if service is None:
            return []
        if deployment_mode(service) == KNATIVE:
            found = self._models_of_revisions(service)
        else:
            found = self._models_of_pods()
        merged: dict[str, ServedModel] = {}
        for model in found:
            known = merged.get(model.storage_uri, model)
            percent = model.percent + (known.percent if model.storage_uri in merged else 0)
            created = min(model.created, known.created)
            merged[model.storage_uri] = ServedModel(model.storage_uri, percent, created)
        return sorted(merged.values(), key=lambda model: (-model.percent, model.created))

    def _models_of_pods(self) -> list[ServedModel]:
        pods = [
            pod
            for pod in list_pods(self._cluster, f"app=isvc.{self._predictor}")
            if not pod.metadata.deletion_timestamp
            and any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or ())
        ]
        return [
            ServedModel(
                str((pod.metadata.annotations or {}).get(STORAGE_URI, "")),
                100 / len(pods),
                f"{pod.metadata.creation_timestamp.isoformat()} {pod.metadata.name}",
            )
            for pod in pods
        ]

    def _models_of_revisions(self, service: Mapping[str, Any]) -> list[ServedModel]:
        found: list[ServedModel] = []
        targets = sorted(_traffic(service), key=lambda target: -(target.get("percent") or 0))
        for target in targets:
            revision = self._revisions.read(target["revisionName"]) if target.get("percent") else None
            if revision is None:
                continue
            if not found and _condition(revision, "Ready").get("status") != "True":
                # Requests to it fail: no other model is the one that serves.
                return []
            metadata = revision["metadata"]
            found.append(
                ServedModel(
                    str((metadata.get("annotations") or {}).get(STORAGE_URI, "")),
                    target["percent"],
                    f"{metadata.get('creationTimestamp', '')} {metadata['name']}",
                )
            )
        return found


def deployment_mode(service: Mapping[str, Any]) -> str:
    """Returns Standard, Knative, another mode's name, or "" if it is not known yet.

    The status has it once the controller has seen the service; an annotation may ask for it before.
    """
    annotations = service["metadata"].get("annotations") or {}
    mode: str = (service.get("status") or {}).get("deploymentMode") or annotations.get(_MODE, "")
    if not mode and predictor_status(service).get("latestCreatedRevision"):
        mode = KNATIVE
    return _MODES.get(mode, mode)


def address_inside(service: Mapping[str, Any]) -> str:
    """Returns the URL of a service inside the cluster; "" if there is none yet."""
    return _url((service.get("status") or {}).get("address"))


def address_of_latest(service: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a URL inside the cluster and the Host header that reach the newest revision of Knative.

    Knative routes by Host: that of a traffic target is its tag, a hyphen, and the host of the Service.
    """
    status = predictor_status(service)
    url = _url(status.get("address"))
    is_tagged = any(target.get("tag") == _LATEST_TAG for target in status.get("traffic") or ())
    return (url, f"{_LATEST_TAG}-{urlsplit(url).netloc}") if url and is_tagged else ("", "")


def percent_of_latest(service: Mapping[str, Any]) -> int:
    """Returns the traffic in percent that the newest revision of Knative gets, according to the status."""
    latest = predictor_status(service).get("latestCreatedRevision")
    return sum(
        int(target.get("percent") or 0)
        for target in _traffic(service)
        if target.get("revisionName") == latest
    )


def is_stopped(service: Mapping[str, Any]) -> bool:
    """Returns whether an annotation asks KServe to run no pods of a service."""
    annotations = service["metadata"].get("annotations") or {}
    return str(annotations.get(STOP, "")).lower() == "true"


def has_rolled_out_revision(service: Mapping[str, Any]) -> bool:
    """Returns whether a revision of Knative has had all traffic: it keeps the rest beside a canary."""
    return bool(predictor_status(service).get("latestRolledoutRevision"))


def predictor_status(service: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the status of the predictor's revisions and traffic; {} if there is none."""
    components = (service.get("status") or {}).get("components") or {}
    return components.get("predictor") or {}


def has_same_pods(spec: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Returns whether two specifications have the same model and settings, apart from the traffic.

    KServe's webhook adds defaults to a specification: only our own fields are compared.
    """
    return _fields(spec) == _fields(other)


def specified_uri(spec: Mapping[str, Any]) -> str:
    """Returns the storage URI of a specification's model."""
    return str((spec.get("predictor", {}).get("model") or {}).get("storageUri", ""))


def _fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    predictor = spec.get("predictor", {})
    model = predictor.get("model") or {}
    annotations = predictor.get("annotations") or {}
    return {
        "storageUri": model.get("storageUri"),
        "image": model.get("image") or "",
        "serviceAccountName": predictor.get("serviceAccountName") or "",
        "annotations": {key: annotations[key] for key in (FINGERPRINT,) if key in annotations},
    }


def _carries(annotations: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Returns whether a workload with these annotations was made for a specification."""
    fields = _fields(spec)
    return bool(
        annotations.get(STORAGE_URI) == fields["storageUri"]
        and annotations.get(FINGERPRINT) == fields["annotations"].get(FINGERPRINT)
    )


def _traffic(service: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(predictor_status(service).get("traffic") or ())


def _refusal(service: Mapping[str, Any]) -> str:
    """Returns why KServe creates no pods for the specification that it has seen; "" if it does."""
    ready = _condition(service, "PredictorReady")
    if ready.get("reason") == "ReconcileFailed":
        return f"KServe cannot create the pods: {ready.get('message')}"
    status = (service.get("status") or {}).get("modelStatus") or {}
    if status.get("transitionStatus") != "InvalidSpec":
        return ""
    failure = status.get("lastFailureInfo") or {}
    return f"KServe rejects the specification: {failure.get('message') or failure.get('reason') or 'unknown'}"


def _condition(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    conditions = (found.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _url(address: Any) -> str:
    return str(address.get("url") or "").rstrip("/") if isinstance(address, dict) else ""
