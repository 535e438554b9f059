"""A deployment and its target."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol


class DeploymentTarget(Protocol):
    """The arguments that name a deployment; several steps have them."""

    @property
    def namespace(self) -> str:
        """Namespace of the InferenceService; empty = the pod's namespace."""

    @property
    def project(self) -> str:
        """Google Cloud project."""

    @property
    def region(self) -> str:
        """Region of Vertex AI."""

    @property
    def vertex_endpoint(self) -> str:
        """Address of Vertex AI that replaces the region's."""

    def resolved_name(self) -> str:
        """Returns the name of the InferenceService, or of the model and the endpoint."""


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
    """

    target: str
    name: str
    version: str
    location: str
    traffic_percent: int
    changed: bool
    model_digest: str

    def to_json(self) -> dict[str, Any]:
        """Returns the deployment as JSON values."""
        return asdict(self)
