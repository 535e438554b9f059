"""Deploys to Kubernetes as an InferenceService of KServe."""

import json
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import CheckFailedError, MissingInputError, UnavailableError
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.shared_arguments import KSERVE_TARGET
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment, DeploymentTarget
from imgpipe.components.deploy.upload import upload_model
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.kserve import (
    READY,
    InferenceService,
    percent_of_latest,
    predictor_status,
    service_state,
)

_DIGEST = "imgpipe/model-digest"
# The specification that served most requests before the current one, for `find_kserve_model` and for a
# deployment that resumes an interrupted one and has to roll back.
_PREVIOUS = "imgpipe/previous"
_HALF = 50


def deploy_to_kserve(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Creates or changes the InferenceService and waits until it is ready.

    With a ``canary_percent`` below 100, the new revision gets that share of the traffic and the previous
    model the rest; deploying the same model again with 100 gives it all traffic. If the new revision does not
    become ready, the service gets its previous specification back; a service that this call has created is
    deleted.

    Args:
        model_folder: The model that the export step published.
        arguments: ``deploy_dir`` (the bucket folder to upload to), ``deploy_name``, ``namespace``, ...

    Raises:
        CheckFailedError: if the model does not become ready; the previous model still serves.
        OutputError: if imgpipe did not create the service of that name.
        UnavailableError: if the cluster rejects a request.
        InterruptedRunError: if the cluster does not respond.
    """
    digest = model_digest(model_folder)
    storage_uri = upload_model(model_folder, arguments.deploy_dir, digest)
    service = _service(arguments)
    current = service.read()
    if current is None:
        service.create(_specification(arguments, storage_uri, has_previous=False), {_DIGEST: digest})
        previous = before_previous = None
    else:
        latest, percent = current["spec"], percent_of_latest(current)
        is_ready = service_state(current)[0] == READY
        is_same_model = _storage_uri(latest) == storage_uri
        # A failed deployment rolls back to `previous`; `serving` is recorded as the model that got most
        # requests until now. They differ if the latest revision is a canary.
        previous = _previous_spec(current) if is_same_model else latest
        serving = previous if is_same_model or percent > _HALF else _previous_spec(current) or latest
        before_previous = None if is_same_model or percent == 100 else _previous_spec(current)
        spec = _specification(arguments, storage_uri, has_previous=previous is not None)
        if is_ready and percent == 100:
            # Also if the same model gets other settings: roll back to the settings that work.
            previous = serving = latest
        if latest == spec and is_ready:
            return _deployment(service.name, current, arguments, digest, changed=False)
        if latest != spec:
            service.replace(spec, {_DIGEST: digest, _PREVIOUS: json.dumps(serving)})
    try:
        ready = service.wait_until_ready(arguments.deploy_timeout_seconds)
    except CheckFailedError as error:
        if previous is None:
            service.delete()
        else:
            service.replace(previous, {_DIGEST: "", _PREVIOUS: json.dumps(before_previous)})
        raise CheckFailedError(
            f"{service.name} was rolled back: {error.problem}",
            where=error.where,
            remedy="see the log of the predictor's pod; the previous model still serves",
        ) from None
    return _deployment(service.name, ready, arguments, digest, changed=True)


def find_kserve_model(target: DeploymentTarget) -> str:
    """Returns the storage URI of the model that answers most requests of the InferenceService.

    This is the latest model once it gets more than half of the traffic, according to the service's status,
    and the previous model while the latest is a canary or has never been ready. If the latest model has taken
    over the traffic and is down, no model answers, and that is an error.

    Args:
        target: Namespace and name of the service.

    Raises:
        MissingInputError: if there is no such service.
        OutputError: if imgpipe did not create it.
        UnavailableError: if it does not serve, or the cluster rejects the request.
        InterruptedRunError: if the cluster does not respond.
    """
    service = _service(target)
    current = service.read()
    if current is None:
        raise MissingInputError(
            f"there is no InferenceService {service.name}",
            remedy="check deploy_name and namespace; before the first deployment there is no model",
        )
    previous = _previous_spec(current)
    if previous is not None and percent_of_latest(current) <= _HALF:
        return _storage_uri(previous)
    state, reason = service_state(current)
    if state != READY:
        raise UnavailableError(
            f"the InferenceService {service.name} does not serve: {reason}",
            remedy="see the log of the predictor's pod, and start the step again once the service is ready",
        )
    return _storage_uri(current["spec"])


def _service(target: DeploymentTarget) -> InferenceService:
    return InferenceService(connect("deploy to", target.namespace), target.resolved_name())


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


def _storage_uri(spec: dict[str, Any]) -> str:
    return str(spec.get("predictor", {}).get("model", {}).get("storageUri", ""))


def _previous_spec(service: dict[str, Any]) -> dict[str, Any] | None:
    try:
        previous = json.loads(service["metadata"].get("annotations", {}).get(_PREVIOUS, "null"))
    except ValueError:
        return None
    return previous if isinstance(previous, dict) else None


def _deployment(
    name: str, service: dict[str, Any], arguments: DeployArguments, digest: str, *, changed: bool
) -> Deployment:
    spec, generation = service["spec"], service["metadata"].get("generation", 1)
    is_canary = spec == _specification(arguments, _storage_uri(spec), has_previous=True)
    return Deployment(
        target=KSERVE_TARGET,
        name=name,
        version=str(predictor_status(service).get("latestReadyRevision") or generation),
        location=str((service.get("status") or {}).get("url") or ""),
        traffic_percent=spec["predictor"].get("canaryTrafficPercent", 100) if is_canary else 100,
        changed=changed,
        model_digest=digest,
    )
