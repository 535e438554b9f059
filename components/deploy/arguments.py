"""The arguments of the deploy step."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.shared_arguments import LOCAL_TARGET, NO_TARGET, VERTEX_TARGET
from imgpipe.components.platforms.vertex.client import is_plain_http
from imgpipe.components.storage import local_path, parse_location

# Names in Kubernetes (RFC 1035); also valid as display name and label on Vertex AI.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class DeployArguments:
    """Where a model is deployed, and how much traffic it gets."""

    deploy_target: str = shared_arguments.deploy_target()
    deploy_dir: str = shared_arguments.deploy_dir()
    deploy_name: str = argument(
        "",
        "Name of the InferenceService (kserve), or of the model and the endpoint (vertex): lower-case "
        "letters, digits and hyphens. Empty = the last part of deploy_dir.",
        group=Group.DEPLOYMENT,
    )
    canary_percent: int = argument(
        100,
        "Percentage of the traffic for the new model; the rest stays with the previous one. Deploy the "
        "same model again with 100 to give it all traffic. For kserve and vertex.",
        group=Group.DEPLOYMENT,
        minimum=1,
        maximum=100,
    )
    deploy_timeout_seconds: int = argument(
        1800,
        "Maximum time to wait until the new model responds; after that, the deployment is rolled back.",
        group=Group.DEPLOYMENT,
        minimum=1,
    )
    undeploy_old: bool = argument(
        False,
        "Whether models of the endpoint without traffic are undeployed once the new model has all of it. "
        "For vertex.",
        group=Group.DEPLOYMENT,
    )
    serving_url: str = argument(
        "",
        "Address of the server that watches deploy_dir, e.g. http://127.0.0.1:8501. If it does not report "
        "the new version as served, the version is removed. Empty = not checked. For local.",
        group=Group.DEPLOYMENT,
    )
    serving_machine_type: str = argument(
        "n1-standard-2", "Machine type that serves the model. For vertex.", group=Group.DEPLOYMENT
    )
    serving_image: str = argument(
        "",
        "TensorFlow Serving image, with at least the TensorFlow version that trained the model. Required "
        "for vertex; for kserve, empty = the cluster's runtime for TensorFlow.",
        group=Group.DEPLOYMENT,
    )
    namespace: str = argument(
        "",
        "Namespace of the InferenceService. Empty = the pod's namespace. For kserve.",
        group=Group.DEPLOYMENT,
    )
    serving_service_account: str = argument(
        "",
        "Service account of the model server; it must be allowed to read deploy_dir. Empty = the default "
        "account. For kserve and vertex.",
        group=Group.DEPLOYMENT,
    )
    project: str = argument("", "Google Cloud project. For vertex.", group=Group.DEPLOYMENT)
    region: str = argument("", "Vertex AI region, e.g. europe-west4. For vertex.", group=Group.DEPLOYMENT)
    vertex_endpoint: str = shared_arguments.vertex_endpoint()

    def __post_init__(self) -> None:
        """Checks every value, then what the target requires.

        Raises:
            InvalidArgumentError: naming the wrong or missing arguments.
        """
        check_fields(self)
        check_deployment_target(self, {VERTEX_TARGET: ("serving_image", "project", "region")})

    def resolved_name(self) -> str:
        """Returns the name of the deployment."""
        return deployment_name(self.deploy_name, self.deploy_dir)


def check_deployment_target(arguments: Any, needed: Mapping[str, tuple[str, ...]]) -> None:
    """Checks the arguments that name a deployment.

    Args:
        arguments: A step's arguments, with ``deploy_target``, ``deploy_dir`` and the names in ``needed``.
        needed: Required arguments besides ``deploy_dir``, by target.

    Raises:
        InvalidArgumentError: naming the wrong or missing arguments.
    """
    location = parse_location(arguments.deploy_dir)
    is_plain_http(arguments.vertex_endpoint)
    target = arguments.deploy_target
    if target == NO_TARGET:
        return
    missing = [name for name in ("deploy_dir", *needed.get(target, ())) if not getattr(arguments, name)]
    if missing:
        raise InvalidArgumentError(
            f"deploy_target={target} requires {', '.join(missing)}",
            remedy=f"give {' and '.join(missing)}, or set deploy_target to none",
        )
    if target == LOCAL_TARGET:
        local_path(arguments.deploy_dir)
        return
    if location.is_local:
        raise InvalidArgumentError(
            f"deploy_dir={arguments.deploy_dir!r} is not in a bucket, which {target} servers require",
            remedy="give a path gs://bucket/folder that the servers may read",
        )
    if not _NAME.fullmatch(arguments.resolved_name()):
        raise InvalidArgumentError(
            f"deploy_name={arguments.resolved_name()!r} is not a valid name",
            remedy="use at most 63 lowercase letters, digits and hyphens, starting with a letter",
        )


def deployment_name(deploy_name: str, deploy_dir: str) -> str:
    """Returns the given name of a deployment, or the last part of its folder."""
    return deploy_name or deploy_dir.rstrip("/").rpartition("/")[2]
