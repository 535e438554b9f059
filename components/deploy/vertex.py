"""Deploys to Vertex AI: a version in the Model Registry, on an endpoint, with a share of its traffic."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import field_mask_pb2, json_format, struct_pb2

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    MissingInputError,
    UnavailableError,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_digest
from imgpipe.components.common.shared_arguments import VERTEX_TARGET
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment, DeploymentTarget
from imgpipe.components.deploy.traffic import shares_with
from imgpipe.components.deploy.upload import VERSION, upload_model
from imgpipe.components.images.probe_image import probe_image
from imgpipe.components.platforms.vertex.client import service_client

# A label's value has at most 63 characters.
_DIGEST_LABEL = "imgpipe-model"
_DIGEST_CHARACTERS = 40
_PORT = 8501
# Requests until one has been answered by the new model, whose share may be a percent.
_MOST_PROBES = 500


@dataclass(frozen=True)
class _Clients:
    models: vertex.ModelServiceClient
    endpoints: vertex.EndpointServiceClient
    predictions: vertex.PredictionServiceClient


def deploy_to_vertex(
    model_folder: Path,
    arguments: DeployArguments,
) -> Deployment:
    """Uploads a version of the model, finds or makes the endpoint, and gives the version its share.

    What is there already is used: the version with these files, the endpoint of this name, the model
    deployed on it. If the new model does not answer, the endpoint's traffic is what it was and the model
    is undeployed.

    Args:
        model_folder: What the export step published.
        arguments: ``project``, ``region``, ``deploy_dir``, where the model is uploaded to, ...

    Raises:
        InvalidArgumentError: if credentials would go over plain http.
        CheckFailedError: if the model cannot be deployed or does not answer; what served before serves.
        UnavailableError: if Vertex AI refuses, e.g. for lack of a permission or of machines.
        InterruptedRunError: if it cannot be reached.
    """
    digest = model_digest(model_folder)
    clients = _clients(arguments)
    location = upload_model(model_folder, arguments.deploy_dir, digest)
    with _explained(arguments):
        model = _version(clients, arguments, digest) or _uploaded(clients, arguments, digest, location)
        endpoint = _endpoint(clients, arguments)
        deployed = _deployed_id(endpoint, model)
        before = dict(endpoint.traffic_split)
        changed = True
        if deployed is None:
            deployed = _deploy(clients, arguments, endpoint, model)
        else:
            wanted = shares_with(before, deployed, arguments.canary_percent)
            changed = wanted != before
            if changed:
                _set_traffic(clients, endpoint.name, wanted)
    if changed:
        _probe_or_go_back(clients, arguments, endpoint.name, deployed, before)
    with _explained(arguments):
        if arguments.undeploy_old and arguments.canary_percent == 100:
            changed = _undeploy_idle(clients, arguments, endpoint.name) or changed
        share = clients.endpoints.get_endpoint(name=endpoint.name).traffic_split[deployed]
    return Deployment(
        target=VERTEX_TARGET,
        name=arguments.resolved_name(),
        version=model.version_id,
        location=endpoint.name,
        traffic_percent=share,
        changed=changed,
        model_digest=digest,
    )


def find_vertex_model(place: DeploymentTarget) -> str:
    """Returns where the model lies that answers most requests of the endpoint; of equal ones, the oldest.

    Args:
        place: ``project``, ``region`` and name of the endpoint.

    Raises:
        InvalidArgumentError: if credentials would go over plain http.
        MissingInputError: if there is no endpoint of the name, or no model gets its requests.
        UnavailableError: if Vertex AI refuses, or there are no credentials.
        InterruptedRunError: if it cannot be reached.
    """
    clients = _clients(place)
    name = place.resolved_name()
    with _explained(place):
        endpoint = _found_endpoint(clients, place)
        if endpoint is None:
            raise MissingInputError(
                f"there is no endpoint {name!r}",
                where=_parent(place),
                remedy="nothing is to be done if this is the first model",
            )
        serving = max(
            (one for one in endpoint.deployed_models if endpoint.traffic_split.get(one.id)),
            key=lambda one: (endpoint.traffic_split[one.id], -one.create_time.timestamp()),
            default=None,
        )
        if serving is None:
            raise MissingInputError(
                f"no model gets the requests of the endpoint {name!r}",
                where=endpoint.name,
                remedy="nothing is to be done if this is the first model",
            )
        version = f"@{serving.model_version_id}" if serving.model_version_id else ""
        return str(clients.models.get_model(name=f"{_resource(serving.model)}{version}").artifact_uri)


def _clients(place: DeploymentTarget) -> _Clients:
    return _Clients(
        service_client("ModelServiceClient", place.region, place.vertex_endpoint),
        service_client("EndpointServiceClient", place.region, place.vertex_endpoint),
        service_client("PredictionServiceClient", place.region, place.vertex_endpoint),
    )


def _parent(arguments: DeploymentTarget) -> str:
    return f"projects/{arguments.project}/locations/{arguments.region}"


def _label(digest: str) -> str:
    return digest[:_DIGEST_CHARACTERS]


def _resource(name: str) -> str:
    """Returns a model's name without the version that may follow it."""
    return name.partition("@")[0]


def _registered(clients: _Clients, arguments: DeployArguments) -> Any | None:
    """Returns the model of the deployment's name, the oldest if there are several; None if there is none."""
    models = clients.models.list_models(
        request={"parent": _parent(arguments), "filter": f'display_name="{arguments.resolved_name()}"'}
    )
    return min(models, key=lambda model: (model.create_time.timestamp(), model.name), default=None)


def _version(clients: _Clients, arguments: DeployArguments, digest: str) -> Any | None:
    """Returns the version that has these files; None if there is none."""
    model = _registered(clients, arguments)
    if model is None:
        return None
    versions = clients.models.list_model_versions(name=_resource(model.name))
    return next((one for one in versions if one.labels.get(_DIGEST_LABEL) == _label(digest)), None)


def _uploaded(clients: _Clients, arguments: DeployArguments, digest: str, location: str) -> Any:
    name = arguments.resolved_name()
    registered = _registered(clients, arguments)
    model = vertex.Model(
        display_name=name,
        artifact_uri=f"{location}/{VERSION}",
        labels={_DIGEST_LABEL: _label(digest)},
        container_spec=vertex.ModelContainerSpec(
            image_uri=arguments.serving_image,
            # TensorFlow Serving looks for numbered versions; Vertex AI copies what artifact_uri names.
            args=[
                f"--model_name={name}",
                f"--model_base_path={location}",
                f"--rest_api_port={_PORT}",
            ],
            ports=[vertex.Port(container_port=_PORT)],
            predict_route=f"/v1/models/{name}:predict",
            health_route=f"/v1/models/{name}",
        ),
    )
    operation = clients.models.upload_model(
        request={
            "parent": _parent(arguments),
            "parent_model": _resource(registered.name) if registered is not None else "",
            "model": model,
            "service_account": arguments.serving_service_account,
        }
    )
    result = operation.result(timeout=arguments.deploy_timeout_seconds)
    log_event("model_uploaded", f"deploy: {result.model} has version {result.model_version_id}")
    return clients.models.get_model(name=f"{_resource(result.model)}@{result.model_version_id}")


def _found_endpoint(clients: _Clients, place: DeploymentTarget) -> Any | None:
    """Returns the endpoint of the deployment's name, the oldest if there are several; None if none is."""
    endpoints = clients.endpoints.list_endpoints(
        request={"parent": _parent(place), "filter": f'display_name="{place.resolved_name()}"'}
    )
    return min(endpoints, key=lambda one: (one.create_time.timestamp(), one.name), default=None)


def _endpoint(clients: _Clients, arguments: DeployArguments) -> Any:
    name = arguments.resolved_name()
    found = _found_endpoint(clients, arguments)
    if found is not None:
        return found
    operation = clients.endpoints.create_endpoint(
        parent=_parent(arguments), endpoint=vertex.Endpoint(display_name=name)
    )
    made = operation.result(timeout=arguments.deploy_timeout_seconds)
    log_event("endpoint_made", f"deploy: endpoint {made.name} is made")
    return made


def _deployed_id(endpoint: Any, model: Any) -> str | None:
    for deployed in endpoint.deployed_models:
        if (
            _resource(deployed.model) == _resource(model.name)
            and deployed.model_version_id == model.version_id
        ):
            return str(deployed.id)
    return None


def _deploy(clients: _Clients, arguments: DeployArguments, endpoint: Any, model: Any) -> str:
    # In a request, 0 stands for the model that is being deployed.
    shares = shares_with(dict(endpoint.traffic_split), "0", arguments.canary_percent)
    operation = clients.endpoints.deploy_model(
        request={
            "endpoint": endpoint.name,
            "deployed_model": vertex.DeployedModel(
                model=f"{_resource(model.name)}@{model.version_id}",
                display_name=arguments.resolved_name(),
                service_account=arguments.serving_service_account,
                dedicated_resources=vertex.DedicatedResources(
                    machine_spec=vertex.MachineSpec(machine_type=arguments.serving_machine_type),
                    min_replica_count=1,
                    max_replica_count=1,
                ),
            ),
            "traffic_split": shares,
        }
    )
    try:
        result = operation.result(timeout=arguments.deploy_timeout_seconds)
    except exceptions.GoogleAPICallError as error:
        # Vertex AI leaves the endpoint as it was.
        raise CheckFailedError(
            f"the model cannot be deployed: {_message(error)}",
            where=endpoint.name,
            remedy="see the endpoint's log; what served before serves still",
        ) from None
    log_event("model_deployed", f"deploy: {result.deployed_model.id} is on {endpoint.name}")
    return str(result.deployed_model.id)


def _probe_or_go_back(
    clients: _Clients, arguments: DeployArguments, endpoint: str, deployed: str, before: dict[str, int]
) -> None:
    """Asks the endpoint until the new model has answered.

    Raises:
        CheckFailedError: if it answers with an error; traffic is then what it was.
    """
    instance = json_format.ParseDict(
        {"image_bytes": {"b64": base64.b64encode(probe_image()).decode()}, "key": "probe"}, struct_pb2.Value()
    )
    try:
        for _ in range(_MOST_PROBES):
            answer = clients.predictions.predict(endpoint=endpoint, instances=[instance])
            if answer.deployed_model_id == deployed:
                _check_answer(answer)
                return
        reason = f"none of {_MOST_PROBES} requests was answered by it"
    except (exceptions.GoogleAPICallError, CheckFailedError) as error:
        reason = _message(error) if isinstance(error, exceptions.GoogleAPICallError) else error.problem
    with _explained(arguments):
        shares = before if deployed in before else {**before, deployed: 0}
        if any(shares.values()):
            _set_traffic(clients, endpoint, shares)
        if deployed not in before:
            operation = clients.endpoints.undeploy_model(
                request={"endpoint": endpoint, "deployed_model_id": deployed, "traffic_split": before}
            )
            operation.result(timeout=arguments.deploy_timeout_seconds)
    raise CheckFailedError(
        f"the deployed model was taken back: {reason}",
        where=endpoint,
        remedy="see the endpoint's log; what served before serves still",
    )


def _check_answer(answer: Any) -> None:
    try:
        prediction = dict(answer.predictions[0])
        right = prediction["key"] == "probe" and abs(sum(prediction["probabilities"]) - 1) < 1e-3
    except (IndexError, KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise CheckFailedError("its answer to a picture is no probabilities that sum to 1")


def _set_traffic(clients: _Clients, endpoint: str, shares: dict[str, int]) -> None:
    clients.endpoints.update_endpoint(
        endpoint=vertex.Endpoint(name=endpoint, traffic_split=shares),
        update_mask=field_mask_pb2.FieldMask(paths=["traffic_split"]),
    )
    log_event("traffic_set", f"deploy: traffic of {endpoint}: {shares}", traffic=shares)


def _undeploy_idle(clients: _Clients, arguments: DeployArguments, name: str) -> bool:
    """Undeploys what gets no traffic; returns whether there was something."""
    endpoint = clients.endpoints.get_endpoint(name=name)
    idle = [one.id for one in endpoint.deployed_models if not endpoint.traffic_split.get(one.id)]
    for deployed in idle:
        operation = clients.endpoints.undeploy_model(
            request={"endpoint": name, "deployed_model_id": deployed}
        )
        operation.result(timeout=arguments.deploy_timeout_seconds)
        log_event("model_undeployed", f"deploy: {deployed} is no longer on {name}")
    return bool(idle)


def _message(error: exceptions.GoogleAPICallError) -> str:
    """Returns what the service said, without the request that the REST client puts before it."""
    return re.sub(r"^[A-Z]+ http\S+: ", "", str(error.message))


@contextmanager
def _explained(arguments: DeploymentTarget) -> Iterator[None]:
    where = _parent(arguments)
    try:
        yield
    except (exceptions.ServiceUnavailable, exceptions.RetryError, ConnectionError) as error:
        raise InterruptedRunError(
            f"Vertex AI cannot be reached: {error}",
            where=where,
            remedy="start the step again: it goes on there",
        ) from None
    except exceptions.GoogleAPICallError as error:
        raise UnavailableError(
            f"Vertex AI refuses: {error.code} {_message(error)}",
            where=where,
            remedy="check project, region, quota and the permissions of the step's service account",
        ) from None
