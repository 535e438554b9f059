"""Deploys to Kubernetes as an InferenceService of KServe (serving.kserve.io/v1beta1)."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    MissingInputError,
    OutputError,
    UnavailableError,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.shared_arguments import KSERVE_TARGET
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment, DeploymentTarget
from imgpipe.components.deploy.upload import upload_model
from imgpipe.components.platforms.kubernetes.client import default_client, own_namespace, refused

_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_MANAGED_BY = {"app.kubernetes.io/managed-by": "imgpipe"}
_DIGEST = "imgpipe/model-digest"
# What served most before the newest, for `find_kserve_model` and for a run that goes on where an interrupted
# one was and has to go back.
_PREVIOUS = "imgpipe/previous"
_POLL_SECONDS = 2.0
_CONFLICT = 409
_HALF = 50
_TRIES = 5


def deploy_to_kserve(
    model_folder: Path,
    arguments: DeployArguments,
    *,
    api_client: client.ApiClient | None = None,
    poll_seconds: float = _POLL_SECONDS,
) -> Deployment:
    """Makes or changes the InferenceService and waits until it is ready.

    With a ``canary_percent`` below 100 the new revision gets that share, what served before the rest; the
    same model again with 100 gives it everything. A revision that does not become ready is taken back: the
    service gets the specification that it had; one that this call made is deleted.

    Args:
        model_folder: What the export step published.
        arguments: ``deploy_dir``, where the model is uploaded to, ``deploy_name``, ``namespace``, ...
        api_client: Of the cluster; None = that of the pod, or of the kubeconfig file.
        poll_seconds: Time between two looks.

    Raises:
        CheckFailedError: if the model does not become ready; what served before serves.
        OutputError: if there is a service of the name that imgpipe did not make.
        UnavailableError: if the cluster refuses.
    """
    digest = model_digest(model_folder)
    storage_uri = upload_model(model_folder, arguments.deploy_dir, digest)
    services = _Services(api_client, arguments)
    current = services.get()
    if current is None:
        wanted = _specification(arguments, storage_uri, has_previous=False)
        services.create(wanted, {_DIGEST: digest})
        previous = before_previous = None
    else:
        services.check_ours(current)
        newest, share = current["spec"], _share_of_newest(current)
        same_model = _storage_of(newest) == storage_uri
        # What a failed rollout goes back to, and what is noted as the one that served most until now: they
        # differ where the newest is a canary itself.
        previous = _previous_of(current) if same_model else newest
        serving = previous if same_model or share > _HALF else _previous_of(current) or newest
        before_previous = None if same_model or share == 100 else _previous_of(current)
        wanted = _specification(arguments, storage_uri, has_previous=previous is not None)
        if _state(current)[0] == "ready" and share == 100:
            # Also where the same model gets other settings: what answers now is what to go back to.
            previous = serving = newest
        if newest == wanted and _state(current)[0] == "ready":
            return _deployment(services, current, arguments, digest, changed=False)
        if newest != wanted:
            kept = {_DIGEST: digest, _PREVIOUS: json.dumps(serving)}
            services.replace(wanted, kept)
    try:
        ready = _wait(services, arguments.deploy_timeout_seconds, poll_seconds)
    except CheckFailedError as error:
        _go_back(services, previous, before_previous)
        raise CheckFailedError(
            f"{services.name} was taken back: {error.problem}",
            where=error.where,
            remedy="see the log of the predictor's pod; what served before serves still",
        ) from None
    return _deployment(services, ready, arguments, digest, changed=True)


def find_kserve_model(place: DeploymentTarget, *, api_client: client.ApiClient | None = None) -> str:
    """Returns the storage URI of the model that answers most requests of the InferenceService.

    That is the newest one as soon as more than half of the traffic goes to it, as the service's status says;
    before, as long as it is a canary or was never ready, the model before. A newest model that has taken the
    traffic over and is down now answers nothing, and the model before it does not either: that is an error.

    Args:
        place: ``namespace`` and name of the service.
        api_client: Of the cluster; None = that of the pod, or of the kubeconfig file.

    Raises:
        MissingInputError: if there is no such service.
        OutputError: if it is not one that imgpipe made.
        UnavailableError: if it does not serve, or the cluster refuses.
        InterruptedRunError: if the cluster cannot be reached.
    """
    services = _Services(api_client, place)
    where = f"{services.namespace}/{services.name}"
    try:
        service = services.get()
    except urllib3.exceptions.HTTPError as error:
        raise InterruptedRunError(
            f"the cluster cannot be reached: {type(error).__name__}",
            where=where,
            remedy="start the step again; is the cluster's address in the kubeconfig file right?",
        ) from None
    if service is None:
        raise MissingInputError(
            f"there is no InferenceService {where}", remedy="nothing is to be done if this is the first model"
        )
    services.check_ours(service)
    spec, previous = service["spec"], _previous_of(service)
    state, reason = _state(service)
    if previous is not None and _share_of_newest(service) <= _HALF:
        spec = previous
    elif state != "ready":
        raise UnavailableError(
            f"the InferenceService {where} does not serve: {reason}",
            remedy="see the predictor's log, and start the step again once it serves",
        )
    return _storage_of(spec)


class _Services:
    """The InferenceServices of one name: there is one or none."""

    def __init__(self, api_client: client.ApiClient | None, place: DeploymentTarget) -> None:
        self._api = client.CustomObjectsApi(api_client or default_client("deploy to"))
        self.name = place.resolved_name()
        self.namespace = place.namespace or own_namespace()
        self._path = {
            "group": _GROUP,
            "version": _VERSION,
            "plural": _PLURAL,
            "namespace": self.namespace,
        }

    def get(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._api.get_namespaced_custom_object(name=self.name, **self._path)
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise self._refused(error) from None
        return found

    def create(self, spec: dict[str, Any], annotations: dict[str, str]) -> None:
        body = {
            "apiVersion": f"{_GROUP}/{_VERSION}",
            "kind": "InferenceService",
            "metadata": {"name": self.name, "labels": _MANAGED_BY, "annotations": annotations},
            "spec": spec,
        }
        self._call(lambda: self._api.create_namespaced_custom_object(body=body, **self._path))
        log_event("service_made", f"deploy: InferenceService {self.namespace}/{self.name} is made")

    def replace(self, spec: dict[str, Any], annotations: dict[str, str]) -> None:
        """Gives the service another specification; tried again when somebody changed it meanwhile."""
        for attempt in range(_TRIES):
            current = self.get()
            if current is None:
                raise UnavailableError(
                    f"InferenceService {self.namespace}/{self.name} was deleted meanwhile",
                    remedy="deploy again",
                )
            body = copy.deepcopy(current)
            body["spec"] = spec
            body["metadata"].setdefault("annotations", {}).update(annotations)
            try:
                self._api.replace_namespaced_custom_object(name=self.name, body=body, **self._path)
            except client.ApiException as error:
                if error.status != _CONFLICT or attempt == _TRIES - 1:
                    raise self._refused(error) from None
            else:
                log_event(
                    "service_changed", f"deploy: InferenceService {self.namespace}/{self.name} is changed"
                )
                return

    def delete(self) -> None:
        self._call(lambda: self._api.delete_namespaced_custom_object(name=self.name, **self._path))

    def check_ours(self, service: dict[str, Any]) -> None:
        labels = service["metadata"].get("labels") or {}
        if any(labels.get(name) != value for name, value in _MANAGED_BY.items()):
            raise OutputError(
                f"InferenceService {self.namespace}/{self.name} is not one that imgpipe made",
                remedy="give another deploy_name; nothing of others is changed",
            )

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except client.ApiException as error:
            raise self._refused(error) from None

    def _refused(self, error: client.ApiException) -> UnavailableError:
        return refused(
            error,
            f"{_PLURAL} of namespace {self.namespace!r}",
            "is KServe installed, and may the step's service account change its inferenceservices?",
        )


def _specification(arguments: DeployArguments, storage_uri: str, *, has_previous: bool) -> dict[str, Any]:
    model: dict[str, Any] = {"modelFormat": {"name": "tensorflow"}, "storageUri": storage_uri}
    if arguments.serving_image:
        model["image"] = arguments.serving_image
    predictor: dict[str, Any] = {"model": model}
    if arguments.serving_service_account:
        predictor["serviceAccountName"] = arguments.serving_service_account
    if has_previous and arguments.canary_percent < 100:
        predictor["canaryTrafficPercent"] = arguments.canary_percent
    return {"predictor": predictor}


def _storage_of(spec: dict[str, Any]) -> str:
    return str(spec.get("predictor", {}).get("model", {}).get("storageUri", ""))


def _previous_of(service: dict[str, Any]) -> dict[str, Any] | None:
    try:
        previous = json.loads(service["metadata"].get("annotations", {}).get(_PREVIOUS, "null"))
    except ValueError:
        return None
    return previous if isinstance(previous, dict) else None


def _share_of_newest(service: dict[str, Any]) -> int:
    """Returns how much of the traffic goes to what the specification says, in percent."""
    status = service.get("status") or {}
    if status.get("observedGeneration", 0) < service["metadata"].get("generation", 0):
        # The status is that of the specification before.
        return 0
    predictor = (status.get("components") or {}).get("predictor") or {}
    latest, traffic = predictor.get("latestCreatedRevision"), predictor.get("traffic")
    if latest is not None and traffic:
        return sum(one.get("percent") or 0 for one in traffic if one.get("revisionName") == latest)
    # Without revisions the pods of the model before answer until those of the newest are loaded.
    taken_over = (status.get("modelStatus") or {}).get("transitionStatus", "UpToDate") == "UpToDate"
    if not taken_over or (latest is not None and predictor.get("latestReadyRevision") != latest):
        return 0
    return int(service["spec"].get("predictor", {}).get("canaryTrafficPercent", 100))


def _state(service: dict[str, Any]) -> tuple[str, str]:
    """Returns ``ready``, ``failed`` or ``waiting``, and why."""
    status = service.get("status") or {}
    if status.get("observedGeneration", 0) < service["metadata"].get("generation", 0):
        return "waiting", "the controller has not seen it yet"
    of_model = status.get("modelStatus") or {}
    if of_model.get("transitionStatus") in ("BlockedByFailedLoad", "InvalidSpec"):
        failure = of_model.get("lastFailureInfo") or {}
        return "failed", str(failure.get("message") or of_model["transitionStatus"])
    predictor = (status.get("components") or {}).get("predictor") or {}
    # Where revisions are counted (Knative), Ready may still be that of the one before.
    latest = predictor.get("latestCreatedRevision")
    if latest is not None and predictor.get("latestReadyRevision") != latest:
        return "waiting", f"revision {latest} is not ready"
    if of_model.get("transitionStatus") == "InProgress":
        return "waiting", "the model is being loaded"
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    if ready.get("status") == "True":
        return "ready", ""
    reasons = [
        f"{name}: {one.get('message') or one.get('reason') or one['status']}"
        for name, one in conditions.items()
        if one.get("status") != "True"
    ]
    return "waiting", "; ".join(reasons) or "no status yet"


def _wait(services: _Services, seconds: float, poll_seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    shown = ""
    while True:
        service = services.get()
        if service is None:
            raise CheckFailedError("the service was deleted meanwhile", where=services.name)
        state, reason = _state(service)
        if state == "ready":
            return service
        if state == "failed":
            raise CheckFailedError(f"the model cannot be served: {reason}", where=services.name)
        if time.monotonic() > deadline:
            raise CheckFailedError(
                f"it was not ready within {seconds:g} seconds: {reason}", where=services.name
            )
        if reason != shown:
            shown = reason
            log_event("waiting", f"deploy: waiting for {services.namespace}/{services.name}: {reason}")
        time.sleep(poll_seconds)


def _go_back(
    services: _Services, previous: dict[str, Any] | None, before_previous: dict[str, Any] | None
) -> None:
    """Gives the service ``previous``, a canary beside ``before_previous`` if that is not None."""
    if previous is None:
        services.delete()
        log_event("service_deleted", f"deploy: {services.name} is deleted: nothing served before")
        return
    services.replace(previous, {_DIGEST: "", _PREVIOUS: json.dumps(before_previous)})


def _deployment(
    services: _Services, service: dict[str, Any], arguments: DeployArguments, digest: str, *, changed: bool
) -> Deployment:
    status = service.get("status") or {}
    predictor = (status.get("components") or {}).get("predictor") or {}
    if service["spec"] != _specification(arguments, _storage_of(service["spec"]), has_previous=True):
        percent = 100
    else:
        percent = service["spec"]["predictor"].get("canaryTrafficPercent", 100)
    return Deployment(
        target=KSERVE_TARGET,
        name=f"{services.namespace}/{services.name}",
        version=str(predictor.get("latestReadyRevision") or service["metadata"].get("generation", 1)),
        location=str(status.get("url") or ""),
        traffic_percent=percent,
        changed=changed,
        model_digest=digest,
    )
