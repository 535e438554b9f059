"""The runtimes of KServe that load SavedModels, judged before a service is created."""

import re
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from imgpipe.components.common.errors import CheckFailedError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.provenance import DEPLOYMENT_CONFIG_NAME
from imgpipe.components.platforms.kubernetes.client import REQUEST_TIMEOUT_SECONDS, Cluster
from imgpipe.components.platforms.kubernetes.errors import translate_errors

_API = {"group": "serving.kserve.io", "version": "v1alpha1", "_request_timeout": REQUEST_TIMEOUT_SECONDS}
_FORMAT = "tensorflow"
_OLDEST = (2, 6)
_TENSORFLOW_SERVING = re.compile(r"(?:.*/)?tensorflow/serving:(\d+)\.(\d+)\b[^/]*")
_REMEDY = (
    "set serving_image to a TensorFlow Serving image of that version, or create the ServingRuntime in "
    "docs/deploy.md"
)


def check_runtime(cluster: Cluster, model_folder: Path, serving_image: str) -> None:
    """Checks that the server which KServe will start can load a model.

    KServe selects a runtime in any case; ``serving_image`` only replaces the image of its container. An image
    with a name that says nothing about its version is accepted: the model's answers are checked later.

    Raises:
        CheckFailedError: if the image is TensorFlow Serving of an older version than the model requires.
        UnavailableError: if the cluster has no runtime for TensorFlow models.
        InterruptedRunError: if the API server does not respond.
    """
    name, image = "serving_image", serving_image
    try:
        runtimes = _list_runtimes(cluster)
    except UnavailableError as error:
        log_event("runtime_not_checked", f"deploy: {error.problem}; {error.remedy}", severity="WARNING")
    else:
        runtime = _selected(runtimes)
        if runtime is None:
            raise UnavailableError(
                "the cluster has no ServingRuntime for TensorFlow models",
                remedy="create the ServingRuntime in docs/deploy.md: KServe needs one, also with "
                "serving_image",
            )
        if not serving_image:
            name, image = runtime["metadata"]["name"], _image(runtime)
    required = _required_version(model_folder)
    match = _TENSORFLOW_SERVING.fullmatch(image)
    if match and (int(match[1]), int(match[2])) < required:
        raise CheckFailedError(
            f"{image} of {name} cannot load the model, which requires TensorFlow "
            f"{required[0]}.{required[1]} or later",
            remedy=_REMEDY,
        )


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


def _selected(runtimes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the runtime that KServe selects: of the namespace before the cluster, then by priority."""
    fitting = [runtime for runtime in runtimes if _priority(runtime) is not None]
    return min(
        fitting,
        key=lambda runtime: ("namespace" not in runtime["metadata"], -(_priority(runtime) or 0)),
        default=None,
    )


def _priority(runtime: dict[str, Any]) -> int | None:
    """Returns the priority of a runtime for TensorFlow models; None if KServe does not select it."""
    spec = runtime["spec"]
    if spec.get("disabled") or "v1" not in (spec.get("protocolVersions") or ["v1"]):
        return None
    priorities = [
        int(supported.get("priority") or 0)
        for supported in spec.get("supportedModelFormats") or ()
        if supported.get("name") == _FORMAT and supported.get("autoSelect")
    ]
    return max(priorities, default=None)


def _image(runtime: dict[str, Any]) -> str:
    containers = runtime["spec"].get("containers") or [{}]
    named = [container for container in containers if container.get("name") == "kserve-container"]
    return str((named or containers)[0].get("image", ""))


def _required_version(model_folder: Path) -> tuple[int, int]:
    """Returns the oldest TensorFlow version that can load a model, as its deployment_config.yaml says."""
    try:
        config = yaml.safe_load((model_folder / DEPLOYMENT_CONFIG_NAME).read_text(encoding="utf-8"))
        # Models of earlier versions of imgpipe require the version that wrote them.
        version = config.get("minimumRuntimeVersion") or config["runtimeVersion"]
        major, minor = str(version).split(".")[:2]
        return int(major), int(minor)
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return _OLDEST
