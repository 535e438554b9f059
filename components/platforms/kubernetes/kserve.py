"""InferenceServices of KServe (serving.kserve.io/v1beta1)."""

import copy
import time
from typing import Any

from imgpipe.components.common.errors import CheckFailedError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.kubernetes.client import (
    MANAGED_BY,
    Cluster,
    CustomObjects,
    check_managed,
)
from imgpipe.components.platforms.polling import poll

READY, WAITING, FAILED = "ready", "waiting", "failed"
POLL_SECONDS = 2.0
_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_REPLACE_ATTEMPTS = 5


class InferenceService:
    """The InferenceService of one name, whether it exists or not."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = f"{cluster.namespace}/{name}"
        self._name = name
        self._services = CustomObjects(
            cluster,
            _GROUP,
            _VERSION,
            _PLURAL,
            remedy="check that KServe is installed, and grant the step's service account the right to change "
            "inferenceservices",
        )

    def read(self) -> dict[str, Any] | None:
        """Returns the service, or None if it does not exist.

        Raises:
            OutputError: if imgpipe did not create it.
        """
        found = self._services.read(self._name)
        if found is not None:
            check_managed(found, f"InferenceService {self.name}", "deploy_name")
        return found

    def create(self, spec: dict[str, Any], annotations: dict[str, str]) -> None:
        """Creates the service."""
        body = {
            "apiVersion": f"{_GROUP}/{_VERSION}",
            "kind": "InferenceService",
            "metadata": {"name": self._name, "labels": MANAGED_BY, "annotations": annotations},
            "spec": spec,
        }
        if not self._services.create(body):
            raise UnavailableError(
                f"InferenceService {self.name} was created by another client", remedy="deploy again"
            )
        log_event("service_created", f"deploy: created InferenceService {self.name}")

    def replace(self, spec: dict[str, Any], annotations: dict[str, str]) -> None:
        """Replaces the specification and adds annotations; retries if another client changes the service."""
        for _ in range(_REPLACE_ATTEMPTS):
            current = self.read()
            if current is None:
                raise UnavailableError(f"InferenceService {self.name} was deleted", remedy="deploy again")
            body = copy.deepcopy(current)
            body["spec"] = spec
            body["metadata"].setdefault("annotations", {}).update(annotations)
            if self._services.replace(self._name, body):
                log_event("service_changed", f"deploy: changed InferenceService {self.name}")
                return
        raise UnavailableError(
            f"InferenceService {self.name} is being changed by another client", remedy="deploy again"
        )

    def delete(self) -> None:
        """Deletes the service if it exists."""
        self._services.delete(self._name)
        log_event("service_deleted", f"deploy: deleted InferenceService {self.name}")

    def wait_until_ready(self, timeout_seconds: float) -> dict[str, Any]:
        """Returns the service once the revision of its specification is ready.

        Raises:
            CheckFailedError: if the model cannot be loaded, or the service is not ready in time or deleted.
        """
        deadline = time.monotonic() + timeout_seconds
        last_reason = ""

        def check(service: dict[str, Any] | None) -> None:
            nonlocal last_reason
            if service is None:
                raise CheckFailedError("the service was deleted", where=self.name)
            state, reason = service_state(service)
            if state == FAILED:
                raise CheckFailedError(f"the model cannot be served: {reason}", where=self.name)
            if state == WAITING and time.monotonic() > deadline:
                raise CheckFailedError(
                    f"the service was not ready within {timeout_seconds:g} seconds: {reason}", where=self.name
                )
            if state == WAITING and reason != last_reason:
                last_reason = reason
                log_event("waiting", f"deploy: waiting for {self.name}: {reason}")

        ready = poll(
            self.read,
            lambda service: service is not None and service_state(service)[0] == READY,
            on_response=check,
            first_pause=POLL_SECONDS,
            max_pause=POLL_SECONDS,
            # An API server that does not respond ends the step; when it runs again, it resumes the rollout.
            silence_limit=0,
        )
        assert ready is not None  # noqa: S101 - poll() ends with a service that is ready
        return ready


def service_state(service: dict[str, Any]) -> tuple[str, str]:
    """Returns READY, WAITING or FAILED for the revision of a service's specification, and the reason."""
    if not _is_observed(service):
        return WAITING, "the controller has not seen the change yet"
    status = service.get("status") or {}
    model_status = status.get("modelStatus") or {}
    transition = model_status.get("transitionStatus")
    if transition in ("BlockedByFailedLoad", "InvalidSpec"):
        failure = model_status.get("lastFailureInfo") or {}
        return FAILED, str(failure.get("message") or transition)
    predictor = predictor_status(service)
    # With Knative, the condition Ready may still be the previous revision's.
    latest = predictor.get("latestCreatedRevision")
    if latest is not None and predictor.get("latestReadyRevision") != latest:
        return WAITING, f"revision {latest} is not ready"
    if transition == "InProgress":
        return WAITING, "the model is loading"
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if (conditions.get("Ready") or {}).get("status") == "True":
        return READY, ""
    reasons = [
        f"{name}: {condition.get('message') or condition.get('reason') or condition['status']}"
        for name, condition in conditions.items()
        if condition.get("status") != "True"
    ]
    return WAITING, "; ".join(reasons) or "it has no status yet"


def percent_of_latest(service: dict[str, Any]) -> int:
    """Returns the percentage of the traffic that the revision of a service's specification gets."""
    if not _is_observed(service):
        return 0
    predictor = predictor_status(service)
    latest, traffic = predictor.get("latestCreatedRevision"), predictor.get("traffic")
    if latest is not None and traffic:
        return sum(target.get("percent") or 0 for target in traffic if target.get("revisionName") == latest)
    # Without revisions, the previous model's pods serve until the new ones have loaded the model.
    model_status = (service.get("status") or {}).get("modelStatus") or {}
    is_loaded = model_status.get("transitionStatus", "UpToDate") == "UpToDate"
    if not is_loaded or (latest is not None and predictor.get("latestReadyRevision") != latest):
        return 0
    return int(service["spec"].get("predictor", {}).get("canaryTrafficPercent", 100))


def predictor_status(service: dict[str, Any]) -> dict[str, Any]:
    """Returns the status of the predictor's revisions and traffic; {} if there is none."""
    components = (service.get("status") or {}).get("components") or {}
    return components.get("predictor") or {}


def _is_observed(service: dict[str, Any]) -> bool:
    """Returns whether the status belongs to the current specification."""
    status = service.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= service["metadata"].get("generation", 0))
