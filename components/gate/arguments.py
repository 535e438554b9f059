"""The arguments of the gate."""

from dataclasses import dataclass

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError


@dataclass(frozen=True)
class GateArguments:
    """The conditions for deploying a model."""

    deploy_target: str = shared_arguments.DEPLOY_TARGET
    min_accuracy: float = argument(
        0.0,
        "Minimum top-1 accuracy for deployment.",
        group=Group.EVALUATION,
        minimum=0,
        maximum=1,
    )
    min_class_recall: float = argument(
        0.0,
        "Minimum recall of every class that has images in the evaluation.",
        group=Group.EVALUATION,
        minimum=0,
        maximum=1,
    )
    slices_csv: str = shared_arguments.SLICES_CSV
    min_slice_accuracy: float = argument(
        0.0,
        "Minimum top-1 accuracy of every slice in slices_csv.",
        group=Group.EVALUATION,
        minimum=0,
        maximum=1,
    )
    tolerance: float = argument(
        0.0,
        "How far the top-1 accuracy may be below the champion's on the same images, e.g. 0.005. Without a "
        "champion nothing is compared.",
        group=Group.EVALUATION,
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: naming the arguments that are not allowed or incompatible.
        """
        check_fields(self)
        if self.min_slice_accuracy and not self.slices_csv:
            raise InvalidArgumentError(
                f"min_slice_accuracy={self.min_slice_accuracy:g} requires slices_csv",
                remedy="set slices_csv, the file that assigns images to slices, or omit min_slice_accuracy",
            )
