"""The arguments of the evaluate step."""

from dataclasses import dataclass

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, Kind, argument, check_fields
from imgpipe.components.deploy.deployment import DeploymentTarget
from imgpipe.components.platforms.vertex.client import is_plain_http

AUTO = "auto"
NO_CHAMPION = "none"


@dataclass(frozen=True)
class EvaluateArguments(DeploymentTarget):
    """What to measure on, and what to compare with."""

    evaluation_split: str = shared_arguments.EVALUATION_SPLIT
    champion: str = argument(
        AUTO,
        "The deployed model, evaluated on the same images for comparison: a folder, local, "
        "gs:// or s3://, that contains saved_model.pb, or a folder of numbered versions, of which the "
        "highest is used. auto = the newest version in a local deploy_dir, or for kserve and vertex the "
        "deployed model with the most traffic, if there is one; none = no comparison.",
        group=Group.EVALUATION,
        kind=Kind.INPUT_MODEL,
    )
    slices_csv: str = shared_arguments.SLICES_CSV

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if one is not allowed, or a folder is a URL of another kind.
        """
        check_fields(self)
        is_plain_http(self.vertex_endpoint)
