"""What a deployment came to, whatever its target."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol


class DeploymentTarget(Protocol):
    """What tells where a model is deployed; arguments of several steps say it."""

    @property
    def namespace(self) -> str:
        """Of the InferenceService; empty = the pod's."""

    @property
    def project(self) -> str:
        """Of Google Cloud."""

    @property
    def region(self) -> str:
        """Of Vertex AI."""

    @property
    def vertex_endpoint(self) -> str:
        """Of Vertex AI, if it is not the region's."""

    def resolved_name(self) -> str:
        """Returns the name of the InferenceService, or of the model and the endpoint."""


@dataclass(frozen=True)
class Deployment:
    """The deployed model.

    Attributes:
        target: local, kserve or vertex.
        name: Of the deployment.
        version: Of the model there.
        location: Where it is: a folder, a URL, or a resource's name.
        traffic_percent: Its share of the traffic.
        changed: False if it was so already.
        model_digest: Of the model's files.
    """

    target: str
    name: str
    version: str
    location: str
    traffic_percent: int
    changed: bool
    model_digest: str

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return asdict(self)
