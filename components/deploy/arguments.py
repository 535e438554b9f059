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
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import absolute_location, local_path

# What Kubernetes takes for a name (RFC 1035), and Vertex AI for a display name and a label, too.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class DeployArguments:
    """Where a model goes, and how much traffic it gets there."""

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
        """Checks every value, then what the target needs.

        Raises:
            InvalidArgumentError: naming what is wrong or missing.
        """
        check_fields(self)
        check_deployment_target(self, {VERTEX_TARGET: ("serving_image", "project", "region")})

    def resolved_name(self) -> str:
        """Returns the deployment's name."""
        return deployment_name(self.deploy_name, self.deploy_dir)


def check_deployment_target(arguments: Any, needed: Mapping[str, tuple[str, ...]]) -> None:
    """Checks where a model is deployed.

    Args:
        arguments: Of a step; with ``deploy_target``, ``deploy_dir`` and what ``needed`` names.
        needed: By target, what must be given besides ``deploy_dir``.

    Raises:
        InvalidArgumentError: naming what is wrong or missing.
    """
    absolute_location(arguments.deploy_dir)
    is_plain_http(arguments.vertex_endpoint)
    target = arguments.deploy_target
    if target == NO_TARGET:
        return
    missing = [name for name in ("deploy_dir", *needed.get(target, ())) if not getattr(arguments, name)]
    if missing:
        raise InvalidArgumentError(
            f"deploy_target={target} is given without {', '.join(missing)}",
            remedy=f"give {' and '.join(missing)} too, or deploy_target=none",
        )
    if target == LOCAL_TARGET:
        local_path(arguments.deploy_dir)
        return
    if not is_cloud_path(arguments.deploy_dir):
        raise InvalidArgumentError(
            f"deploy_dir={arguments.deploy_dir!r}: the servers of {target} read from a bucket",
            remedy="give a path gs://bucket/folder that they may read",
        )
    if not _NAME.fullmatch(arguments.resolved_name()):
        raise InvalidArgumentError(
            f"deploy_name={arguments.resolved_name()!r}: allowed are small letters, digits and hyphens, a "
            "letter first, 63 at most",
            remedy="give such a deploy_name",
        )


def deployment_name(deploy_name: str, deploy_dir: str) -> str:
    """Returns the name of a deployment: as given, otherwise the last part of its folder."""
    return deploy_name or deploy_dir.rstrip("/").rpartition("/")[2]
