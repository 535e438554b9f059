"""Deploys to Vertex AI: uploads a model version and gives it a share of an endpoint's traffic."""

import random
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import field_mask_pb2, json_format, struct_pb2

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidResponseError,
    MissingInputError,
    PipelineError,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.server_image import check_server_image
from imgpipe.components.common.shared_arguments import VERTEX_TARGET
from imgpipe.components.common.verification import Verification, read_verified_model
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment, DeploymentTarget
from imgpipe.components.deploy.traffic import shares_with
from imgpipe.components.deploy.upload import upload_model
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.vertex.client import VertexLocation, wait_for
from imgpipe.components.platforms.vertex.errors import service_message, translate_errors
from imgpipe.components.platforms.vertex.jobs import quoted

# A label's value has at most 63 characters.
_DIGEST_LABEL = "imgpipe-model"
_DIGEST_CHARACTERS = 40
_PORT = 8501
_ROLLED_BACK_REMEDY = "see the endpoint's log; the previous model serves the traffic"
_MODELS, _ENDPOINTS = "ModelServiceClient", "EndpointServiceClient"
# The share of the new model may be 1 percent: limit of the requests until it has responded to one.
_MAX_PROBES = 500
# How long one of them is repeated while the endpoint is busy.
_PROBE_SECONDS = 30.0
_IMAGE_REMEDY = "set serving_image to a TensorFlow Serving image of that version"
# How long a deployment that outlasts its limit may take to be cancelled, or completed and undone.
_UNDO_SECONDS = 300.0


def deploy_to_vertex(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Uploads a version of the model, finds or creates the endpoint, and gives the version its traffic.

    Reuses the version with the same files, the endpoint with this name, and the model deployed on it. If the
    new model does not respond, it is undeployed and the endpoint's previous traffic is restored.

    Args:
        model_folder: Output of the export step.
        arguments: ``project``, ``region``, ``deploy_dir`` (the model is uploaded to it), ...

    Raises:
        InvalidArgumentError: if credentials would be sent over plain http, or Vertex AI rejects a request.
        MissingInputError: if the export step did not write the model.
        CheckFailedError: if the model's files were changed after the export, ``serving_image`` cannot load
            it, it cannot be deployed, or its answers are not the evaluation's; the previous model serves.
        UnavailableError: if permissions, quota or credentials are missing.
        InterruptedRunError: if Vertex AI cannot be reached.
    """
    verification = read_verified_model(model_folder)
    digest = model_digest(model_folder)
    check_server_image(arguments.serving_image, model_folder, name="serving_image", remedy=_IMAGE_REMEDY)
    location = _location(arguments)
    model_uri = upload_model(model_folder, arguments.deploy_dir, digest)
    # The traffic before the first attempt: what a later attempt finds may be the work of an earlier one.
    previous_split: dict[str, int] | None = None

    def find_or_deploy() -> tuple[Any, str, str, dict[str, int]]:
        nonlocal previous_split
        with translate_errors("deploy the model", where=location.parent, needs_machines=True):
            model = _find_version(location, arguments, digest)
            model = model or _upload(location, arguments, digest, model_uri)
            endpoint = _find_endpoint(location, arguments) or _create_endpoint(location, arguments)
            split = dict(endpoint.traffic_split)
            if previous_split is None:
                previous_split = split
            deployed_id = _find_deployed(endpoint, model)
            if deployed_id is None:
                deployed_id = _deploy(location, arguments, endpoint, model)
            else:
                wanted = shares_with(split, deployed_id, arguments.canary_percent)
                if wanted != split:
                    _set_traffic(location, endpoint.name, wanted)
            return model, endpoint.name, deployed_id, previous_split

    model, endpoint, deployed_id, before = retry(find_or_deploy)
    changed = shares_with(before, deployed_id, arguments.canary_percent) != before
    # Also if nothing was changed: an attempt that was killed may have deployed the model without a check.
    _probe_or_roll_back(location, arguments, endpoint, deployed_id, before, verification)

    def undeploy_idle_and_read() -> tuple[bool, int]:
        with translate_errors("read the endpoint", where=endpoint):
            undeploys = arguments.undeploy_old and arguments.canary_percent == 100
            undeployed = undeploys and _undeploy_idle(location, arguments, endpoint)
            share = location.client(_ENDPOINTS).get_endpoint(name=endpoint).traffic_split[deployed_id]
            return undeployed, int(share)

    undeployed, share = retry(undeploy_idle_and_read)
    return Deployment(
        target=VERTEX_TARGET,
        name=arguments.resolved_name(),
        version=model.version_id,
        location=endpoint,
        traffic_percent=share,
        changed=changed or undeployed,
        model_digest=digest,
    )


def find_vertex_model(arguments: DeploymentTarget) -> str:
    """Returns the location of the model with the most traffic; of models with the same share, the oldest.

    Args:
        arguments: ``project``, ``region`` and name of the endpoint.

    Raises:
        InvalidArgumentError: if credentials would be sent over plain http.
        MissingInputError: if there is no endpoint of that name, or none of its models has traffic.
        UnavailableError: if permissions or credentials are missing.
        InterruptedRunError: if Vertex AI cannot be reached.
    """
    location = _location(arguments)
    name = arguments.resolved_name()
    remedy = "check project, region and deploy_name; before the first deployment there is no model"
    with translate_errors("find the deployed model", where=location.parent):
        endpoint = _find_endpoint(location, arguments)
        if endpoint is None:
            raise MissingInputError(f"there is no endpoint {name!r}", where=location.parent, remedy=remedy)
        serving = max(
            (model for model in endpoint.deployed_models if endpoint.traffic_split.get(model.id)),
            key=lambda model: (endpoint.traffic_split[model.id], -model.create_time.timestamp()),
            default=None,
        )
        if serving is None:
            raise MissingInputError(
                f"no model of the endpoint {name!r} has traffic", where=endpoint.name, remedy=remedy
            )
        version = f"@{serving.model_version_id}" if serving.model_version_id else ""
        return str(
            location.client(_MODELS).get_model(name=f"{_resource(serving.model)}{version}").artifact_uri
        )


def _location(arguments: DeploymentTarget) -> VertexLocation:
    return VertexLocation(arguments.project, arguments.region, arguments.vertex_endpoint)


def _label(digest: str) -> str:
    return digest[:_DIGEST_CHARACTERS]


def _resource(name: str) -> str:
    """Returns a model's resource name without its version."""
    return name.partition("@")[0]


def _find_model(location: VertexLocation, arguments: DeployArguments) -> Any | None:
    """Returns the model with the deployment's name, the oldest if there are several, or None."""
    models = location.client(_MODELS).list_models(
        request={"parent": location.parent, "filter": f"display_name={quoted(arguments.resolved_name())}"}
    )
    return min(models, key=lambda model: (model.create_time.timestamp(), model.name), default=None)


def _find_version(location: VertexLocation, arguments: DeployArguments, digest: str) -> Any | None:
    """Returns the version with these files, or None."""
    model = _find_model(location, arguments)
    if model is None:
        return None
    versions = location.client(_MODELS).list_model_versions(name=_resource(model.name))
    return next((found for found in versions if found.labels.get(_DIGEST_LABEL) == _label(digest)), None)


def _upload(location: VertexLocation, arguments: DeployArguments, digest: str, model_uri: str) -> Any:
    name = arguments.resolved_name()
    existing = _find_model(location, arguments)
    model = vertex.Model(
        display_name=name,
        # With the folder of the version: TensorFlow Serving looks for numbered ones.
        artifact_uri=model_uri,
        labels={_DIGEST_LABEL: _label(digest)},
        container_spec=vertex.ModelContainerSpec(
            image_uri=arguments.serving_image,
            # Vertex AI copies artifact_uri: the copy is all that the default account may read.
            args=[
                f"--model_name={name}",
                "--model_base_path=$(AIP_STORAGE_URI)",
                f"--rest_api_port={_PORT}",
            ],
            ports=[vertex.Port(container_port=_PORT)],
            predict_route=f"/v1/models/{name}:predict",
            health_route=f"/v1/models/{name}",
        ),
    )
    operation = location.client(_MODELS).upload_model(
        request={
            "parent": location.parent,
            "parent_model": _resource(existing.name) if existing is not None else "",
            "model": model,
            "service_account": arguments.serving_service_account,
        }
    )
    result = wait_for(operation, arguments.deploy_timeout_seconds, location.client(_MODELS))
    log_event("model_uploaded", f"deploy: {result.model} has version {result.model_version_id}")
    return location.client(_MODELS).get_model(name=f"{_resource(result.model)}@{result.model_version_id}")


def _find_endpoint(location: VertexLocation, arguments: DeploymentTarget) -> Any | None:
    """Returns the endpoint with the deployment's name, the oldest if there are several, or None."""
    endpoints = location.client(_ENDPOINTS).list_endpoints(
        request={"parent": location.parent, "filter": f"display_name={quoted(arguments.resolved_name())}"}
    )
    return min(
        endpoints, key=lambda endpoint: (endpoint.create_time.timestamp(), endpoint.name), default=None
    )


def _create_endpoint(location: VertexLocation, arguments: DeployArguments) -> Any:
    operation = location.client(_ENDPOINTS).create_endpoint(
        parent=location.parent,
        endpoint=vertex.Endpoint(
            display_name=arguments.resolved_name(), dedicated_endpoint_enabled=not arguments.shared_endpoint
        ),
    )
    endpoint = wait_for(operation, arguments.deploy_timeout_seconds, location.client(_ENDPOINTS))
    log_event("endpoint_created", f"deploy: created endpoint {endpoint.name}")
    return endpoint


def _find_deployed(endpoint: Any, model: Any) -> str | None:
    for deployed in endpoint.deployed_models:
        if (
            _resource(deployed.model) == _resource(model.name)
            and deployed.model_version_id == model.version_id
        ):
            return str(deployed.id)
    return None


def _deploy(location: VertexLocation, arguments: DeployArguments, endpoint: Any, model: Any) -> str:
    before = dict(endpoint.traffic_split)
    # Chosen here, so that a deployment that outlasts its limit can be undone.
    deployed_id = str(random.SystemRandom().randrange(10**9, 10**10))
    # In the request, the model that is being deployed has the id 0.
    split = shares_with(before, "0", arguments.canary_percent)
    request = {
        "endpoint": endpoint.name,
        "deployed_model": vertex.DeployedModel(
            id=deployed_id,
            model=f"{_resource(model.name)}@{model.version_id}",
            display_name=arguments.resolved_name(),
            service_account=arguments.serving_service_account,
            dedicated_resources=vertex.DedicatedResources(
                machine_spec=vertex.MachineSpec(
                    machine_type=arguments.serving_machine_type,
                    accelerator_type=arguments.serving_accelerator_type or None,
                    accelerator_count=arguments.serving_accelerator_count,
                ),
                min_replica_count=arguments.serving_min_replicas,
                max_replica_count=arguments.resolved_max_replicas(),
                spot=arguments.serving_spot,
            ),
        ),
        "traffic_split": split,
    }
    try:
        with translate_errors("deploy the model", where=endpoint.name, needs_machines=True):
            operation = location.client(_ENDPOINTS).deploy_model(request=request)
    except (InterruptedRunError, InvalidResponseError) as error:
        if "HTTP 429" in error.problem:
            raise
        # While Vertex AI deploys, the endpoint does not list the model: a repetition could deploy it twice.
        raise CheckFailedError(
            f"{error.problem}; the deployment may have been started nevertheless",
            where=endpoint.name,
            remedy="see the endpoint with `gcloud ai endpoints describe`; when it lists the model "
            f"{deployed_id}, deploy again: the model is reused",
        ) from None
    try:
        result = wait_for(operation, arguments.deploy_timeout_seconds, location.client(_ENDPOINTS))
    except CheckFailedError as error:
        raise _undo_late(location, arguments, operation, endpoint.name, deployed_id, before, error) from None
    except PipelineError as error:
        # Not repeated: the endpoint does not list the model yet, and a repetition could deploy it twice.
        raise CheckFailedError(
            f"{error.problem}; the deployment may be completed nevertheless",
            where=endpoint.name,
            remedy="when `gcloud ai endpoints describe` lists the model, deploy again: it is reused; or undo "
            f"it: {_undo_command(arguments, endpoint.name, deployed_id)}",
        ) from None
    except exceptions.GoogleAPICallError as error:
        # Vertex AI does not change the endpoint in this case.
        raise CheckFailedError(
            f"the model cannot be deployed: {service_message(error)}",
            where=endpoint.name,
            remedy=_ROLLED_BACK_REMEDY,
        ) from None
    log_event("model_deployed", f"deploy: deployed {result.deployed_model.id} to {endpoint.name}")
    return str(result.deployed_model.id)


def _undo_late(
    location: VertexLocation,
    arguments: DeployArguments,
    operation: Any,
    endpoint: str,
    deployed_id: str,
    before: dict[str, int],
    late: CheckFailedError,
) -> CheckFailedError:
    """Undoes a deployment that outlasts its limit, and returns the error to raise.

    Its cancellation was requested, but Vertex AI may complete it nevertheless: the model would take traffic.
    """
    reason = late.problem
    try:
        wait_for(operation, _UNDO_SECONDS, location.client(_ENDPOINTS))
        retry(lambda: _roll_back(location, arguments, endpoint, deployed_id, before))
        done = "it was completed later, and undone"
    except exceptions.GoogleAPICallError:
        done = "the endpoint is unchanged"
    except PipelineError as error:
        return CheckFailedError(
            f"{reason}; it may be completed later: {error.problem}",
            where=endpoint,
            remedy=f"undo it then: {_undo_command(arguments, endpoint, deployed_id)}; and raise "
            "deploy_timeout_seconds",
        )
    return CheckFailedError(
        f"{reason}; {done}", where=endpoint, remedy="raise deploy_timeout_seconds and deploy again"
    )


def _undo_command(arguments: DeployArguments, endpoint: str, deployed_id: str) -> str:
    return (
        f"gcloud ai endpoints undeploy-model {endpoint} --deployed-model-id={deployed_id} "
        f"--region={arguments.region}"
    )


def _roll_back(
    location: VertexLocation,
    arguments: DeployArguments,
    endpoint: str,
    deployed_id: str,
    previous_split: dict[str, int],
) -> None:
    """Restores the endpoint's traffic and undeploys the model, unless it was deployed before."""
    with translate_errors("roll the deployment back", where=endpoint):
        found = location.client(_ENDPOINTS).get_endpoint(name=endpoint)
        if deployed_id not in [model.id for model in found.deployed_models]:
            return
        split = previous_split if deployed_id in previous_split else {**previous_split, deployed_id: 0}
        if any(split.values()):
            _set_traffic(location, endpoint, split)
        if deployed_id not in previous_split:
            _undeploy(location, arguments, endpoint, deployed_id, traffic_split=previous_split)


def _predictions(location: VertexLocation, endpoint: str) -> Any:
    """Returns the client for requests to an endpoint; a dedicated one has an address of its own."""
    with translate_errors("read the endpoint", where=endpoint):
        found = location.client(_ENDPOINTS).get_endpoint(name=endpoint)
        return location.client("PredictionServiceClient", found.dedicated_endpoint_dns)


def _probe_or_roll_back(
    location: VertexLocation,
    arguments: DeployArguments,
    endpoint: str,
    deployed_id: str,
    previous_split: dict[str, int],
    verification: Verification,
) -> None:
    """Sends the images of verification.json to the endpoint until the new model has responded.

    Raises:
        CheckFailedError: if it responds with an error, or its answers are not the evaluation's; the previous
            traffic is restored, if this step has changed it.
    """
    instances = [json_format.ParseDict(image, struct_pb2.Value()) for image in verification.instances()]

    def predict() -> Any:
        with translate_errors("send images to the new model", where=endpoint):
            return client.predict(endpoint=endpoint, instances=instances)

    try:
        client = retry(lambda: _predictions(location, endpoint), seconds=_PROBE_SECONDS)
        for _ in range(_MAX_PROBES):
            response = retry(predict, seconds=_PROBE_SECONDS)
            if response.deployed_model_id == deployed_id:
                verification.check_probabilities([dict(answer) for answer in response.predictions])
                return
        reason = f"it responded to none of {_MAX_PROBES} requests"
    except PipelineError as error:
        reason = error.problem
    if shares_with(previous_split, deployed_id, arguments.canary_percent) == previous_split:
        raise CheckFailedError(
            f"before this step, the model had {previous_split[deployed_id]} % of the endpoint's traffic, "
            f"but {reason}; the endpoint was not changed",
            where=endpoint,
            remedy="see the endpoint's log; deploy another model with canary_percent=100, or undeploy this "
            f"one: {_undo_command(arguments, endpoint, deployed_id)}",
        )
    try:
        retry(lambda: _roll_back(location, arguments, endpoint, deployed_id, previous_split))
    except PipelineError as error:
        raise type(error)(
            f"{reason}; the deployment could not be rolled back: {error.problem}",
            where=endpoint,
            remedy=f"undo it: {_undo_command(arguments, endpoint, deployed_id)}",
        ) from None
    raise CheckFailedError(
        f"the deployment was rolled back: {reason}", where=endpoint, remedy=_ROLLED_BACK_REMEDY
    )


def _set_traffic(location: VertexLocation, endpoint: str, split: dict[str, int]) -> None:
    location.client(_ENDPOINTS).update_endpoint(
        endpoint=vertex.Endpoint(name=endpoint, traffic_split=split),
        update_mask=field_mask_pb2.FieldMask(paths=["traffic_split"]),
    )
    log_event("traffic_set", f"deploy: traffic of {endpoint}: {split}", traffic=split)


def _undeploy_idle(location: VertexLocation, arguments: DeployArguments, name: str) -> bool:
    """Undeploys models without traffic; returns whether there were any."""
    endpoint = location.client(_ENDPOINTS).get_endpoint(name=name)
    idle = [model.id for model in endpoint.deployed_models if not endpoint.traffic_split.get(model.id)]
    for deployed_id in idle:
        _undeploy(location, arguments, name, deployed_id)
        log_event("model_undeployed", f"deploy: undeployed {deployed_id} from {name}")
    return bool(idle)


def _undeploy(
    location: VertexLocation, arguments: DeployArguments, endpoint: str, deployed_id: str, **fields: Any
) -> None:
    request = {"endpoint": endpoint, "deployed_model_id": deployed_id, **fields}
    client = location.client(_ENDPOINTS)
    wait_for(client.undeploy_model(request=request), arguments.deploy_timeout_seconds, client)
