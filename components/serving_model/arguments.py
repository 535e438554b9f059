"""The arguments of the serving_model step."""

from dataclasses import dataclass

from imgpipe.components.common.arguments import check_fields, same_argument
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.shared_arguments import NO_TARGET, VERTEX_TARGET
from imgpipe.components.deploy.deployment import DeploymentTarget
from imgpipe.components.train.arguments import TrainingArguments


@dataclass(frozen=True)
class ServingModelArguments(DeploymentTarget):
    """Where the model serves, and what to start from if there is none."""

    pretrained_checkpoint_path: str = same_argument(TrainingArguments, "pretrained_checkpoint_path")
    model_type: str = same_argument(TrainingArguments, "model_type")

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if one is not allowed, or no deployment target is given.
        """
        check_fields(self)
        self.check_target({VERTEX_TARGET: ("project", "region")})
        if self.deploy_target == NO_TARGET:
            raise InvalidArgumentError(
                "with deploy_target=none there is no serving model from which the training could start",
                remedy="set deploy_target (local, kserve or vertex) and deploy_dir, or train without "
                "--retrain (in the pipeline image-classification)",
            )
