"""Deploys to Vertex AI: uploads a model version and gives it a share of an endpoint's traffic."""

import random
from collections.abc import Callable, Mapping
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

    def find_or_create() -> tuple[Any, Any]:
        with translate_errors("deploy the model", where=location.parent):
            return (
                _find_or_upload(location, arguments, digest, model_uri),
                _find_endpoint(location, arguments) or _create_endpoint(location, arguments),
            )

    model, endpoint = retry(find_or_create)
    rollout = _Rollout(location, arguments, endpoint)
    retry(lambda: rollout.place(model))
    # Also if nothing was changed: an attempt that was killed may have deployed the model without a check.
    rollout.probe_or_roll_back(verification)
    undeployed, share = retry(rollout.undeploy_idle_and_read)
    return Deployment(
        target=VERTEX_TARGET,
        name=arguments.resolved_name(),
        version=model.version_id,
        location=endpoint.name,
        traffic_percent=share,
        changed=rollout.changes_traffic or undeployed,
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


def shares_with(current: Mapping[str, int], new: str, percent: int) -> dict[str, int]:
    """Returns a traffic split that gives one model its share; the others keep their proportions.

    Args:
        current: Percent by deployed model; may hold ``new``.
        new: The model that gets ``percent``, or all traffic if no other has any.
        percent: 1 to 100.

    Returns:
        Percent by deployed model, with a sum of 100.
    """
    others = {model: share for model, share in current.items() if model != new}
    total = sum(others.values())
    if not total:
        return {**dict.fromkeys(others, 0), new: 100}
    left = 100 - percent
    shares = {model: share * left // total for model, share in others.items()}
    # Rounding down leaves some percent: they go to the largest remainders.
    by_remainder = sorted(others, key=lambda model: (-(others[model] * left % total), model))
    for model in by_remainder[: left - sum(shares.values())]:
        shares[model] += 1
    return {**shares, new: percent}


def _resource(name: str) -> str:
    """Returns a model's resource name without its version."""
    return name.partition("@")[0]


def _oldest_of_name(
    list_resources: Callable[..., Any], location: VertexLocation, arguments: DeploymentTarget
) -> Any | None:
    """Returns the resource with the deployment's name, the oldest if there are several, or None."""
    name = quoted(arguments.resolved_name())
    found = list_resources(request={"parent": location.parent, "filter": f"display_name={name}"})
    return min(found, key=lambda resource: (resource.create_time.timestamp(), resource.name), default=None)


def _find_or_upload(location: VertexLocation, arguments: DeployArguments, digest: str, model_uri: str) -> Any:
    """Returns the version of the model with these files, which is uploaded if it does not exist."""
    client, name = location.client(_MODELS), arguments.resolved_name()
    label = digest[:_DIGEST_CHARACTERS]
    existing = _oldest_of_name(client.list_models, location, arguments)
    if existing is not None:
        for version in client.list_model_versions(name=_resource(existing.name)):
            if version.labels.get(_DIGEST_LABEL) == label:
                return version
    model = vertex.Model(
        display_name=name,
        # With the folder of the version: TensorFlow Serving looks for numbered ones.
        artifact_uri=model_uri,
        labels={_DIGEST_LABEL: label},
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
    operation = client.upload_model(
        request={
            "parent": location.parent,
            "parent_model": _resource(existing.name) if existing is not None else "",
            "model": model,
            "service_account": arguments.serving_service_account,
        }
    )
    result = wait_for(operation, arguments.deploy_timeout_seconds, client)
    log_event("model_uploaded", f"deploy: {result.model} has version {result.model_version_id}")
    return client.get_model(name=f"{_resource(result.model)}@{result.model_version_id}")


def _find_endpoint(location: VertexLocation, arguments: DeploymentTarget) -> Any | None:
    return _oldest_of_name(location.client(_ENDPOINTS).list_endpoints, location, arguments)


def _create_endpoint(location: VertexLocation, arguments: DeployArguments) -> Any:
    client = location.client(_ENDPOINTS)
    operation = client.create_endpoint(
        parent=location.parent,
        endpoint=vertex.Endpoint(
            display_name=arguments.resolved_name(), dedicated_endpoint_enabled=not arguments.shared_endpoint
        ),
    )
    endpoint = wait_for(operation, arguments.deploy_timeout_seconds, client)
    log_event("endpoint_created", f"deploy: created endpoint {endpoint.name}")
    return endpoint


class _Rollout:
    """The deployment of a model to an endpoint.

    Args:
        location: Project and region.
        arguments: The deployment.
        endpoint: The endpoint before the first attempt: what a later attempt finds may be the work of an
            earlier one.
    """

    def __init__(self, location: VertexLocation, arguments: DeployArguments, endpoint: Any) -> None:
        self._location, self._arguments = location, arguments
        self._endpoint, self._before = str(endpoint.name), dict(endpoint.traffic_split)
        self._client = location.client(_ENDPOINTS)
        self._id = ""

    @property
    def changes_traffic(self) -> bool:
        """Whether the model had another share of the traffic before."""
        return self._wanted(self._before) != self._before

    def place(self, model: Any) -> None:
        """Gives a version its traffic, and deploys it before if it is not deployed."""
        with translate_errors("deploy the model", where=self._endpoint):
            endpoint = self._read()
            version = (_resource(model.name), model.version_id)
            known = {
                (_resource(found.model), found.model_version_id): found.id
                for found in endpoint.deployed_models
            }
            self._id = str(known.get(version, ""))
            split = dict(endpoint.traffic_split)
            if not self._id:
                self._deploy("@".join(version), split)
            elif self._wanted(split) != split:
                self._set_traffic(self._wanted(split))

    def probe_or_roll_back(self, verification: Verification) -> None:
        """Sends the images of verification.json to the endpoint until the new model has responded.

        Raises:
            CheckFailedError: if it responds with an error, or its answers are not the evaluation's; the
                previous traffic is restored, if this step has changed it.
        """
        instances = [json_format.ParseDict(image, struct_pb2.Value()) for image in verification.instances()]

        def predict() -> Any:
            with translate_errors("send images to the new model", where=self._endpoint):
                return client.predict(endpoint=self._endpoint, instances=instances)

        try:
            client = retry(self._predictions, seconds=_PROBE_SECONDS)
            for _ in range(_MAX_PROBES):
                response = retry(predict, seconds=_PROBE_SECONDS)
                if response.deployed_model_id == self._id:
                    verification.check_probabilities([dict(answer) for answer in response.predictions])
                    return
            reason = f"it responded to none of {_MAX_PROBES} requests"
        except PipelineError as error:
            reason = error.problem
        if not self.changes_traffic:
            raise CheckFailedError(
                f"before this step, the model had {self._before[self._id]}% of the endpoint's traffic, "
                f"but {reason}; the endpoint was not changed",
                where=self._endpoint,
                remedy="see the endpoint's log; deploy another model with canary_percent=100, or undeploy "
                f"this one: {self._undo_command}",
            )
        try:
            retry(self._roll_back)
        except PipelineError as error:
            raise type(error)(
                f"{reason}; the deployment could not be rolled back: {error.problem}",
                where=self._endpoint,
                remedy=f"undo it: {self._undo_command}",
            ) from None
        raise CheckFailedError(
            f"the deployment was rolled back: {reason}", where=self._endpoint, remedy=_ROLLED_BACK_REMEDY
        )

    def undeploy_idle_and_read(self) -> tuple[bool, int]:
        """Undeploys models without traffic, if asked to.

        Returns:
            Whether there were any, and the share of the traffic of the new model.
        """
        with translate_errors("read the endpoint", where=self._endpoint):
            endpoint = self._read()
            idle = [
                model.id for model in endpoint.deployed_models if not endpoint.traffic_split.get(model.id)
            ]
            if not self._arguments.undeploy_old or self._arguments.canary_percent != 100:
                idle = []
            for deployed_id in idle:
                self._undeploy(deployed_id)
                log_event("model_undeployed", f"deploy: undeployed {deployed_id} from {self._endpoint}")
            return bool(idle), int(endpoint.traffic_split[self._id])

    def _read(self) -> Any:
        return self._client.get_endpoint(name=self._endpoint)

    def _wanted(self, split: dict[str, int]) -> dict[str, int]:
        return shares_with(split, self._id, self._arguments.canary_percent)

    def _deploy(self, model: str, split: dict[str, int]) -> None:
        arguments = self._arguments
        # Chosen here, so that a deployment that outlasts its limit can be undone.
        self._id = str(random.SystemRandom().randrange(10**9, 10**10))
        request = {
            "endpoint": self._endpoint,
            "deployed_model": vertex.DeployedModel(
                id=self._id,
                model=model,
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
            # In the request, the model that is being deployed has the id 0.
            "traffic_split": shares_with(split, "0", arguments.canary_percent),
        }
        try:
            with translate_errors("deploy the model", where=self._endpoint, needs_machines=True):
                operation = self._client.deploy_model(request=request)
        except (InterruptedRunError, InvalidResponseError) as error:
            if "HTTP 429" in error.problem:
                raise
            # While Vertex AI deploys, the endpoint does not list the model: it could be deployed twice.
            raise CheckFailedError(
                f"{error.problem}; the deployment may have been started nevertheless",
                where=self._endpoint,
                remedy="see the endpoint with `gcloud ai endpoints describe`; when it lists the model "
                f"{self._id}, deploy again: the model is reused",
            ) from None
        try:
            wait_for(operation, arguments.deploy_timeout_seconds, self._client)
        except CheckFailedError as error:
            raise self._undo_late(operation, error.problem) from None
        except PipelineError as error:
            # Not repeated: the endpoint does not list the model yet, and a repetition could deploy it twice.
            raise CheckFailedError(
                f"{error.problem}; the deployment may be completed nevertheless",
                where=self._endpoint,
                remedy="when `gcloud ai endpoints describe` lists the model, deploy again: it is reused; or "
                f"undo it: {self._undo_command}",
            ) from None
        except exceptions.GoogleAPICallError as error:
            # Vertex AI does not change the endpoint in this case.
            raise CheckFailedError(
                f"the model cannot be deployed: {service_message(error)}",
                where=self._endpoint,
                remedy=_ROLLED_BACK_REMEDY,
            ) from None
        log_event("model_deployed", f"deploy: deployed {self._id} to {self._endpoint}")

    def _undo_late(self, operation: Any, reason: str) -> CheckFailedError:
        """Undoes a deployment that outlasts its limit, and returns the error to raise.

        Its cancellation was requested, but Vertex AI may complete it nevertheless: the model would take
        traffic.
        """
        try:
            wait_for(operation, _UNDO_SECONDS, self._client)
            retry(self._roll_back)
            done = "it was completed later, and undone"
        except exceptions.GoogleAPICallError:
            done = "the endpoint is unchanged"
        except PipelineError as error:
            return CheckFailedError(
                f"{reason}; it may be completed later: {error.problem}",
                where=self._endpoint,
                remedy=f"undo it then: {self._undo_command}; and raise deploy_timeout_seconds",
            )
        return CheckFailedError(
            f"{reason}; {done}", where=self._endpoint, remedy="raise deploy_timeout_seconds and deploy again"
        )

    @property
    def _undo_command(self) -> str:
        return (
            f"gcloud ai endpoints undeploy-model {self._endpoint} --deployed-model-id={self._id} "
            f"--region={self._arguments.region}"
        )

    def _roll_back(self) -> None:
        """Restores the endpoint's traffic and undeploys the model, unless it was deployed before."""
        with translate_errors("roll the deployment back", where=self._endpoint):
            if self._id not in [model.id for model in self._read().deployed_models]:
                return
            split = self._before if self._id in self._before else {**self._before, self._id: 0}
            if any(split.values()):
                self._set_traffic(split)
            if self._id not in self._before:
                self._undeploy(self._id, traffic_split=self._before)

    def _predictions(self) -> Any:
        """Returns the client for requests to the endpoint; a dedicated one has an address of its own."""
        with translate_errors("read the endpoint", where=self._endpoint):
            return self._location.client("PredictionServiceClient", self._read().dedicated_endpoint_dns)

    def _set_traffic(self, split: dict[str, int]) -> None:
        self._client.update_endpoint(
            endpoint=vertex.Endpoint(name=self._endpoint, traffic_split=split),
            update_mask=field_mask_pb2.FieldMask(paths=["traffic_split"]),
        )
        log_event("traffic_set", f"deploy: traffic of {self._endpoint}: {split}", traffic=split)

    def _undeploy(self, deployed_id: str, **fields: Any) -> None:
        request = {"endpoint": self._endpoint, "deployed_model_id": deployed_id, **fields}
        operation = self._client.undeploy_model(request=request)
        wait_for(operation, self._arguments.deploy_timeout_seconds, self._client)
