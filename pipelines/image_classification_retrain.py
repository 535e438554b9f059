"""The pipeline from new labeled images and the deployed model to the model that takes its place."""

from typing import Any

from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.component import train
from imgpipe.pipelines.image_classification import Trainer, image_classification
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.target import Target

NAME = "image-classification-retrain"
DESCRIPTION = (
    "Labeled images and the serving model in, a better SavedModel out: converts and checks the images, "
    "continues training from the serving model's weights, evaluates both models on the same images, "
    "publishes the new model if a new process gets the evaluation's predictions from it, and deploys it in "
    "place of the serving model if it passes the gate. While no model is deployed, it starts like "
    "image-classification."
)


def image_classification_retrain(target: Target, images: Images | None = None) -> Any:
    """Builds the pipeline for a target: image_classification, starting from the serving model.

    Args:
        target: The platform that runs it.
        images: Names of the images; by default without registry, tagged with the version.
    """
    trainer = Trainer(
        train, (TrainingArguments,), NAME, DESCRIPTION, PIPELINE_ARGUMENTS, from_serving_model=True
    )
    return image_classification(target, images, trainer=trainer)
