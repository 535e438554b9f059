"""A deployment, and the arguments that identify it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, argument
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.shared_arguments import (
    KSERVE_TARGET,
    LOCAL_TARGET,
    NO_TARGET,
    VERTEX_TARGET,
)
from imgpipe.components.platforms.vertex.client import is_plain_http
from imgpipe.components.storage import ObjectLocation, local_path, parse_location, split_volume_uri

# Names in Kubernetes (RFC 1035); also valid as display name and label on Vertex AI.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
# KServe and Knative make longer names of it that have the same limit, e.g. ``latest-NAME-predictor``.
_MAX_NAME = {KSERVE_TARGET: 63 - len("latest--predictor"), VERTEX_TARGET: 63}
deployment_argument = partial(argument, group=Group.DEPLOYMENT)


@dataclass(frozen=True)
class DeploymentTarget:
    """Arguments of every step that deploys a model or uses the deployed one."""

    deploy_target: str = shared_arguments.DEPLOY_TARGET
    deploy_dir: str = shared_arguments.DEPLOY_DIR
    deploy_name: str = deployment_argument(
        "",
        "Name of the InferenceService (kserve), or of the model and the endpoint (vertex): lower-case "
        "letters, digits and hyphens, at most 46 (kserve) or 63. Empty = the last part of deploy_dir.",
    )
    namespace: str = deployment_argument(
        "",
        "Namespace of the InferenceService. Empty = the pod's namespace. For kserve.",
    )
    project: str = deployment_argument("", "Google Cloud project. For vertex.")
    region: str = deployment_argument("", "Vertex AI region, e.g. europe-west4. For vertex.")
    vertex_endpoint: str = shared_arguments.VERTEX_ENDPOINT

    def resolved_name(self) -> str:
        """Returns ``deploy_name``, or the last part of ``deploy_dir``."""
        return self.deploy_name or self.deploy_dir.rstrip("/").rpartition("/")[2]

    def check_target(self, required: Mapping[str, tuple[str, ...]]) -> None:
        """Checks that the arguments identify a deployment.

        Args:
            required: Required arguments besides ``deploy_dir``, by target.

        Raises:
            InvalidArgumentError: naming what is wrong or missing.
        """
        # On a volume it is a path only where the claim is mounted.
        volume = split_volume_uri(self.deploy_dir)
        location = None if volume else parse_location(self.deploy_dir)
        is_plain_http(self.vertex_endpoint)
        target = self.deploy_target
        if target == NO_TARGET:
            return
        missing = [name for name in ("deploy_dir", *required.get(target, ())) if not getattr(self, name)]
        if missing:
            raise InvalidArgumentError(
                f"deploy_target={target} requires {', '.join(missing)}",
                remedy=f"give {' and '.join(missing)}, or set deploy_target to none",
            )
        if target == LOCAL_TARGET:
            local_path(self.deploy_dir)
            return
        stores = ("gs",) if target == VERTEX_TARGET else ("gs", "s3")
        is_in_store = isinstance(location, ObjectLocation) and location.scheme in stores
        if not is_in_store and not (volume and target == KSERVE_TARGET):
            paths = " or ".join(f"{scheme}://bucket/folder" for scheme in stores)
            on_volume = ", or pvc://CLAIM/FOLDER on a volume" if target == KSERVE_TARGET else ""
            raise InvalidArgumentError(
                f"deploy_dir={self.deploy_dir!r} is not in a bucket that {target} servers can read",
                remedy=f"give a path {paths} that the servers may read{on_volume}",
            )
        name = self.resolved_name()
        if not _NAME.fullmatch(name) or len(name) > _MAX_NAME[target]:
            raise InvalidArgumentError(
                f"deploy_name={name!r} is not a valid name for {target}",
                remedy=f"use at most {_MAX_NAME[target]} lowercase letters, digits and hyphens, starting "
                "with a letter",
            )


@dataclass(frozen=True)
class Deployment:
    """The deployed model.

    Attributes:
        target: local, kserve or vertex.
        name: Name of the deployment.
        version: Version of the model.
        location: A folder, a URL or a resource name.
        traffic_percent: Share of the traffic.
        changed: False if the model was already deployed like this.
        model_digest: Digest of the model's files.
        verified: Whether the deployed model itself has given the evaluation's answers (for local: whether
            its files are those that gave them in the export step).
    """

    target: str
    name: str
    version: str
    location: str
    traffic_percent: int
    changed: bool
    model_digest: str
    verified: bool = True
