"""The runtimes of KServe that load SavedModels, judged before a service is created."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import client

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.server_image import check_server_image
from imgpipe.components.platforms.kubernetes.client import REQUEST_TIMEOUT_SECONDS, Cluster
from imgpipe.components.platforms.kubernetes.errors import translate_errors

_API = {"group": "serving.kserve.io", "version": "v1alpha1", "_request_timeout": REQUEST_TIMEOUT_SECONDS}
_FORMAT = "tensorflow"
_TAG = re.compile(r":[\w.-]*$")
_REMEDY = (
    "set serving_image to a TensorFlow Serving image of that version, or create the ServingRuntime in "
    "docs/deploy.md"
)


def check_runtime(
    cluster: Cluster, model_folder: Path, serving_image: str, service_model: Mapping[str, Any]
) -> None:
    """Checks that the server which KServe will start can load a model.

    KServe selects a runtime in any case; ``serving_image`` only replaces the image of its container. An image
    with a name that says nothing about its version is accepted: the model's answers are checked later.

    Args:
        cluster: The namespace of the service.
        model_folder: The model.
        serving_image: The image that the step asks for; empty = the runtime's.
        service_model: ``spec.predictor.model`` of the existing service; {} = there is none. Its ``runtime``
            and ``runtimeVersion`` stay.

    Raises:
        CheckFailedError: if the image is TensorFlow Serving of an older version than the model requires.
        UnavailableError: if the cluster has no runtime for TensorFlow models.
        InterruptedRunError: if the API server does not respond.
    """
    name, image = "serving_image", serving_image
    wanted = str(service_model.get("runtime") or "")
    try:
        runtimes = _list_runtimes(cluster)
    except UnavailableError as error:
        log_event("runtime_not_checked", f"deploy: {error.problem}; {error.remedy}", severity="WARNING")
    else:
        runtime = _selected(runtimes, wanted)
        if runtime is None:
            named = f" with the name {wanted}, which the service asks for" if wanted else ""
            raise UnavailableError(
                f"the cluster has no ServingRuntime for TensorFlow models{named}",
                remedy="create the ServingRuntime in docs/deploy.md: KServe needs one, also with "
                "serving_image",
            )
        if not serving_image:
            name, image = runtime["metadata"]["name"], _image(runtime)
    version = str(service_model.get("runtimeVersion") or "")
    if version and "@sha256:" not in image:
        # KServe replaces the tag (inferenceservice/utils/utils.go, UpdateImageTag).
        image = f"{_TAG.sub('', image)}:{version}"
    check_server_image(image, model_folder, name=name, remedy=_REMEDY)


def _list_runtimes(cluster: Cluster) -> list[dict[str, Any]]:
    """Returns the runtimes of the namespace, then those of the cluster."""
    api = client.CustomObjectsApi(cluster.api_client)
    with translate_errors(
        "list servingruntimes and clusterservingruntimes",
        remedy="to check the runtime before a deployment, allow it as in docs/deploy.md, section KServe",
    ):
        own = api.list_namespaced_custom_object(plural="servingruntimes", namespace=cluster.namespace, **_API)
        shared = api.list_cluster_custom_object(plural="clusterservingruntimes", **_API)
        return [*own["items"], *shared["items"]]


def _selected(runtimes: list[dict[str, Any]], wanted: str) -> dict[str, Any] | None:
    """Returns the runtime that KServe selects; None if it has none.

    It is the one with the wanted name; without a name, that of the namespace before that of the cluster, then
    the one of the highest priority, then the newest (GetSupportingRuntimes in KServe's predictor_model.go).
    """
    fitting = [
        runtime
        for runtime in sorted(runtimes, key=lambda runtime: str(runtime["metadata"]["name"]))
        if _is_supporting(runtime["spec"], is_named=bool(wanted))
        and wanted in ("", runtime["metadata"]["name"])
    ]
    fitting.sort(key=lambda runtime: str(runtime["metadata"].get("creationTimestamp", "")), reverse=True)
    return min(
        fitting,
        key=lambda runtime: ("namespace" not in runtime["metadata"], -_priority(runtime["spec"])),
        default=None,
    )


def _is_supporting(spec: Mapping[str, Any], *, is_named: bool) -> bool:
    """Returns whether KServe serves one TensorFlow model on one node with a runtime."""
    if spec.get("disabled") or "v1" not in (spec.get("protocolVersions") or ["v1"]):
        return False
    if not is_named and (spec.get("multiModel") or spec.get("workerSpec")):
        return False
    return any(is_named or supported.get("autoSelect") for supported in _formats(spec))


def _priority(spec: Mapping[str, Any]) -> float:
    """Returns a runtime's priority for TensorFlow models; one without a priority comes last."""
    priority = next((supported.get("priority") for supported in _formats(spec)), None)
    return float("-inf") if priority is None else float(priority)


def _formats(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    supported = spec.get("supportedModelFormats") or ()
    return [entry for entry in supported if entry.get("name") == _FORMAT]


def _image(runtime: dict[str, Any]) -> str:
    containers = runtime["spec"].get("containers") or [{}]
    named = [container for container in containers if container.get("name") == "kserve-container"]
    return str((named or containers)[0].get("image", ""))
