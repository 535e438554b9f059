"""The output ``gcp_resources``: the job that a step has created.

Vertex AI's console uses it to link the step to the job, and a restarted step to find its job. The format is
that of Google's pipeline components (``gcp_launcher.proto``).
"""

import json
import re
from pathlib import Path

from imgpipe.components.storage import atomic_write

_NAME = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+/\w+/[^/]+)$")


def write_job(path: Path, resource_type: str, name: str) -> None:
    """Writes the job atomically.

    Args:
        path: The output's file.
        resource_type: E.g. ``CustomJob``.
        name: ``projects/P/locations/R/customJobs/N``.
    """
    region = name.split("/")[3]
    uri = f"https://{region}-aiplatform.googleapis.com/v1/{name}"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"resources": [{"resourceType": resource_type, "resourceUri": uri}]}))


def read_job(path: Path) -> str:
    """Returns the resource name of the job, or "" if none was written."""
    try:
        resources = json.loads(path.read_text())["resources"]
        match = _NAME.search(resources[0]["resourceUri"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return match.group(1) if match else ""
