"""Paths that are mounted: volumes of Kubernetes, and buckets on Vertex AI.

``pvc://CLAIM/path``, KServe's notation for a path on a PersistentVolumeClaim, is a local path in a pod that
mounts the claim. ``gs://BUCKET/path`` is ``/gcs/BUCKET/path`` on Vertex AI's machines.
"""

import json
import os
import re
from collections.abc import Mapping

from imgpipe.components.common.errors import InvalidArgumentError

# The folders of the claims that this pod mounts, as JSON.
VOLUMES_VARIABLE = "IMGPIPE_VOLUMES"
SCHEME = "pvc"
_URI = re.compile(r"pvc://(?P<claim>[a-z0-9][-a-z0-9.]*)(?P<path>(/[^/]+)*)/?", re.ASCII)


def split_volume_uri(text: str) -> tuple[str, str] | None:
    """Returns the claim and the path on it, without a leading ``/``; None if the text is not on a volume.

    Raises:
        InvalidArgumentError: if it has no claim, or a path that leads outside.
    """
    if not text.startswith(f"{SCHEME}://"):
        return None
    match = _URI.fullmatch(text)
    if match is None or any(part in (".", "..") for part in match["path"].split("/")):
        raise InvalidArgumentError(
            f"{text!r} is not a path on a PersistentVolumeClaim", remedy=f"write {SCHEME}://CLAIM/FOLDER"
        )
    return match["claim"], match["path"][1:]


def mounted_path(text: str) -> str:
    """Returns the local path of a path on a volume.

    Raises:
        InvalidArgumentError: if it is not valid, or this machine does not mount the claim.
    """
    found = split_volume_uri(text)
    assert found is not None  # noqa: S101 - the caller has checked the scheme
    claim, path = found
    folders: Mapping[str, str] = json.loads(os.environ.get(VOLUMES_VARIABLE) or "{}")
    if claim not in folders:
        raise InvalidArgumentError(
            f"{text!r} is on the volume {claim}, which this step does not mount",
            remedy=f"submit, upload or compile the pipeline with --volume {claim}:/FOLDER",
        )
    return os.path.join(folders[claim], path) if path else folders[claim]


def uri_of_mounted(path: str) -> str:
    """Returns the ``gs://`` URI of a path below ``/gcs``; other paths unchanged."""
    return re.sub("^/gcs/", "gs://", path)


def mount_of_bucket(path: str) -> str:
    """Returns the path below ``/gcs`` of a ``gs://`` URI; other paths unchanged."""
    return re.sub("^gs://", "/gcs/", path)
