"""The arguments of the audit step."""

from dataclasses import dataclass

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, argument, check_fields
from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.weight_files import check_weights

_NETWORKS = tuple(name for name, kind in MODEL_TYPES.items() if kind.has_imagenet_weights)


@dataclass(frozen=True)
class AuditArguments:
    """How the images are compared."""

    audit_model_type: str = argument(
        "mobilenet-v2",
        "Network with ImageNet weights that computes the features by which images are compared. A larger one "
        "finds more wrong labels, and takes longer.",
        group=Group.MODEL,
        choices=_NETWORKS,
    )
    max_image_pixels: int = shared_arguments.MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        check_fields(self)

    def check_weights(self) -> None:
        """Checks that the network's weights are on this machine, or that it can download them.

        Raises:
            UnavailableError: naming the file, and its folder.
        """
        network, size = self.audit_model_type, MODEL_TYPES[self.audit_model_type].image_size
        try:
            check_weights(TrainingArguments(model_type=network, weights="imagenet", image_size=size))
        except UnavailableError as error:
            # What a training run can do without.
            remedy = error.remedy.partition("or set weights to none")[0].rstrip(" ,;")
            raise UnavailableError(error.problem, where=error.where, remedy=remedy) from None
