"""The output ``gcp_resources``: which job a step has started.

Vertex AI's console links the step with the job by it; a step that is started again finds its job in it.
The form is that of Google's own pipeline components (``gcp_launcher.proto``).
"""

import json
import re
from pathlib import Path

from imgpipe.components.storage.files import written_whole

_NAME = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+/\w+/[^/]+)$")


def write_job(path: Path, resource_type: str, name: str) -> None:
    """Writes which job was started, whole or not at all.

    Args:
        path: The output's file.
        resource_type: ``CustomJob`` or the like.
        name: ``projects/P/locations/R/customJobs/N``.
    """
    region = name.split("/")[3]
    uri = f"https://{region}-aiplatform.googleapis.com/v1/{name}"
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"resources": [{"resourceType": resource_type, "resourceUri": uri}]}))


def read_job(path: Path) -> str:
    """Returns the name of the job that was started, or "" if none was."""
    try:
        resources = json.loads(path.read_text())["resources"]
        match = _NAME.search(resources[0]["resourceUri"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return match.group(1) if match else ""
