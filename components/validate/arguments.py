"""The arguments of the validate step."""

from dataclasses import dataclass

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import check_fields, same_argument
from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.recipes import recipe_values


@dataclass(frozen=True)
class ValidateArguments:
    """The arguments of the training and the evaluation that the data is checked against."""

    num_classes: int = shared_arguments.NUM_CLASSES
    multi_label: bool = shared_arguments.MULTI_LABEL
    train_batch_size: int = shared_arguments.TRAIN_BATCH_SIZE
    num_eval_images: int = shared_arguments.NUM_EVAL_IMAGES
    recipe: str = same_argument(RecipeTrainingArguments, "recipe")
    model_type: str = same_argument(RecipeTrainingArguments, "model_type")
    weights: str = same_argument(RecipeTrainingArguments, "weights")
    freeze: str = same_argument(RecipeTrainingArguments, "freeze")
    image_size: int = shared_arguments.IMAGE_SIZE
    evaluation_split: str = shared_arguments.EVALUATION_SPLIT
    max_image_pixels: int = shared_arguments.MAX_IMAGE_PIXELS

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def trained_image_size(self) -> int:
        """The side in pixels of the square to which training scales images."""
        values = recipe_values(vars(self))
        return int(values["image_size"] or MODEL_TYPES[values["model_type"]].image_size)
