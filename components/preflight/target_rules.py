"""What a target does not support: paths that its machines cannot see, and some deployments."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, LOCAL_TARGET, NO_TARGET, VERTEX_TARGET
from imgpipe.components.preflight.path_arguments import INPUT_KINDS, path_arguments, paths_in
from imgpipe.components.storage import parse_location, split_volume_uri, uri_of_mounted
from imgpipe.components.storage.s3 import S3Location

# More generous than the stores: `imgpipe migrate` prints BUCKET as a placeholder.
_BUCKET = re.compile(r"(gs|s3)://[A-Za-z0-9][A-Za-z0-9._-]*(/|$)")
# Where a pipeline can deploy: a pod's disk is deleted with the pod, and Vertex AI cannot access a cluster.
DEPLOY_TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "local": (NO_TARGET, LOCAL_TARGET, KSERVE_TARGET, VERTEX_TARGET),
        "kubeflow": (NO_TARGET, KSERVE_TARGET, VERTEX_TARGET),
        "vertex": (NO_TARGET, VERTEX_TARGET),
    }
)
_SEEN_FROM_VERTEX = (
    "give a gs:// path, which Vertex AI's machines can read; copy data that is elsewhere there first"
)
_SEEN_FROM_PODS = (
    "give a gs:// or s3:// path, or the absolute path of a volume that your cluster mounts into every pod"
)


def check_deploy_target(target: str, values: Mapping[str, Any]) -> None:
    """Rejects a deploy_target that the pipeline cannot deploy to from a target.

    Args:
        target: ``local``, ``kubeflow`` or ``vertex``.
        values: The pipeline's arguments.

    Raises:
        InvalidArgumentError: naming the value and the allowed ones.
    """
    deploy_target = values.get("deploy_target", NO_TARGET)
    if deploy_target in DEPLOY_TARGETS[target]:
        return
    others = " or ".join(name for name, possible in DEPLOY_TARGETS.items() if deploy_target in possible)
    raise InvalidArgumentError(
        f"deploy_target={deploy_target} cannot be used on target {target}",
        remedy=f"use deploy_target={' or '.join(DEPLOY_TARGETS[target][1:])}, or use target {others}",
    )


def check_paths(target: str, values: Mapping[str, Any]) -> None:
    """Rejects a path that a target's machines cannot see, and an invalid bucket name.

    Vertex AI sees buckets, also mounted at ``/gcs``. Pods may have a volume at any absolute path, but a
    relative path is on none.

    Args:
        target: ``local``, which sees every path of this machine, ``kubeflow`` or ``vertex``.
        values: The job's arguments.

    Raises:
        InvalidArgumentError: naming argument and value.
    """
    for name in path_arguments(*INPUT_KINDS, Kind.OUTPUT_FOLDER):
        value = str(values.get(name) or "")
        for part in paths_in(name, value):
            argument = f"{name}={value}"
            check_bucket(uri_of_mounted(part) if target == "vertex" else part, name=argument)
            if split_volume_uri(part):
                if target != "kubeflow" or name != "deploy_dir":
                    raise InvalidArgumentError(
                        f"{argument} is on a volume, which only a deployment from Kubeflow to KServe can be",
                        remedy="use a path in a bucket; for data on a volume, its path where it is mounted",
                    )
                continue
            location = parse_location(part)
            if target == "vertex" and isinstance(location, S3Location):
                raise InvalidArgumentError(
                    f"{argument} is in S3, for which Vertex AI's machines have no credentials",
                    remedy=_SEEN_FROM_VERTEX,
                )
            if not location.is_local or target == "local" or _is_seen(target, part):
                continue
            reader = "Vertex AI" if target == "vertex" else "the cluster"
            raise InvalidArgumentError(
                f"{argument} is a local path, which {reader} cannot read",
                remedy=_SEEN_FROM_VERTEX if target == "vertex" else _SEEN_FROM_PODS,
            )


def check_bucket(path: str, *, name: str) -> None:
    """Rejects a ``gs://`` or ``s3://`` path without a valid bucket name.

    Args:
        path: Any path; local ones are not checked.
        name: How the error names it, e.g. ``--job-dir=gs:///x``.

    Raises:
        InvalidArgumentError: naming it.
    """
    scheme, separator, rest = path.partition("://")
    if not separator or scheme not in ("gs", "s3") or _BUCKET.match(path):
        return
    bucket = rest.partition("/")[0]
    raise InvalidArgumentError(
        f"{name}: {bucket!r} is not a valid bucket name" if bucket else f"{name} has no bucket",
        remedy=f"write {scheme}://BUCKET/FOLDER, the bucket in letters, digits, -, _ and .",
    )


def _is_seen(target: str, path: str) -> bool:
    return path.startswith("/gcs/") if target == "vertex" else PurePosixPath(path).is_absolute()
