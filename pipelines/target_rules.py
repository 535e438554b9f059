"""What a target cannot do: paths that its machines do not see, models deployed to where it has no way."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, LOCAL_TARGET, NO_TARGET, VERTEX_TARGET
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import URL
from imgpipe.pipelines.path_arguments import INPUT_KINDS, path_arguments, paths_in

# More generous than Cloud Storage: `imgpipe migrate` prints BUCKET as a placeholder.
_BUCKET = re.compile(r"gs://[A-Za-z0-9][A-Za-z0-9._-]*(/|$)")
# Where a pipeline can deploy to. A pod's own disk is gone with the pod, and a machine of Vertex AI knows no
# cluster.
_DEPLOYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "local": (NO_TARGET, LOCAL_TARGET, KSERVE_TARGET, VERTEX_TARGET),
        "kubeflow": (NO_TARGET, KSERVE_TARGET, VERTEX_TARGET),
        "vertex": (NO_TARGET, VERTEX_TARGET),
    }
)
_SEEN_FROM_VERTEX = "Vertex AI's machines read gs:// paths: copy the data to a bucket, and name that"
_SEEN_FROM_PODS = (
    "name a gs:// path, or the whole path (/...) of a volume that your cluster mounts into every pod"
)


def check_deploy_target(target: str, values: Mapping[str, Any]) -> None:
    """Refuses to deploy to where the pipeline's steps have no way from a target.

    Args:
        target: ``local``, ``kubeflow`` or ``vertex``.
        values: The pipeline's arguments.

    Raises:
        InvalidArgumentError: naming the value and those that go.
    """
    wanted = values.get("deploy_target", NO_TARGET)
    if wanted in _DEPLOYS[target]:
        return
    others = " or ".join(name for name, possible in _DEPLOYS.items() if wanted in possible)
    raise InvalidArgumentError(
        f"deploy_target={wanted} does not go with --target {target}",
        remedy=f"give deploy_target={' or '.join(_DEPLOYS[target][1:])}, or --target {others}",
    )


def check_paths(target: str, values: Mapping[str, Any]) -> None:
    """Refuses a path that a target's machines cannot see, and one in a bucket that cannot be.

    Vertex AI's see buckets, mounted at ``/gcs`` too. A cluster's pods may have a volume, which nobody can
    know from here; what is relative to the folder of this command is on none.

    Args:
        target: ``local``, where every path of this machine is seen, ``kubeflow`` or ``vertex``.
        values: The job's arguments.

    Raises:
        InvalidArgumentError: naming argument and value.
    """
    for name in path_arguments(*INPUT_KINDS, Kind.OUTPUT_FOLDER):
        value = str(values.get(name) or "")
        for part in paths_in(name, value):
            flag = f"--{name.replace('job_dir', 'job-dir')}={value}"
            check_bucket(uri_of_mounted(part) if target == "vertex" else part, name=flag)
            scheme = URL.match(part)
            if is_cloud_path(part) or target == "local" or (not scheme and _is_seen(target, part)):
                continue
            what = f"{scheme.group(0)} is not understood" if scheme else "a path of this machine"
            raise InvalidArgumentError(
                f"{flag}: {what}",
                remedy=_SEEN_FROM_VERTEX if target == "vertex" else _SEEN_FROM_PODS,
            )


def check_bucket(path: str, *, name: str) -> None:
    """Refuses a ``gs://`` path without a bucket, or with one that cannot be.

    Args:
        path: Any path; others than ``gs://`` pass.
        name: What the user wrote, e.g. ``--job-dir=gs:///x``.

    Raises:
        InvalidArgumentError: naming it.
    """
    if not is_cloud_path(path) or _BUCKET.match(path):
        return
    bucket = path.removeprefix("gs://").partition("/")[0]
    raise InvalidArgumentError(
        f"{name}: {bucket!r} is not the name of a bucket" if bucket else f"{name} names no bucket",
        remedy="write gs://BUCKET/FOLDER, the bucket in letters, digits, -, _ and .",
    )


def uri_of_mounted(path: str) -> str:
    """Returns the ``gs://`` URI of a path below ``/gcs``, where Vertex AI mounts buckets."""
    return re.sub("^/gcs/", "gs://", path)


def _is_seen(target: str, path: str) -> bool:
    return path.startswith("/gcs/") if target == "vertex" else PurePosixPath(path).is_absolute()
