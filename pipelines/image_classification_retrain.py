"""The pipeline from new labelled images and the model that serves to the model that takes its place."""

from typing import Any

from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.component import train
from imgpipe.pipelines.image_classification import Trainer, image_classification
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.parameters import PIPELINE_ARGUMENTS
from imgpipe.pipelines.targets.target import Target

NAME = "image-classification-retrain"
DESCRIPTION = (
    "Labelled images and the model that serves in, a better SavedModel out: converts and checks the images, "
    "trains on from the weights of the model that serves, evaluates both on the same images, publishes the "
    "new model once a fresh process has answered with it as the evaluation did, and deploys it in the place "
    "of the other if it passes the gate. As long as no model serves, it starts as image-classification does."
)


def image_classification_retrain(target: Target, images: Images | None = None) -> Any:
    """Builds the pipeline for a target: image_classification, started from the model that serves.

    Args:
        target: Where it will run.
        images: Names of the images; by default without registry, tagged with the version.
    """
    trainer = Trainer(
        train, (TrainingArguments,), NAME, DESCRIPTION, PIPELINE_ARGUMENTS, from_serving_model=True
    )
    return image_classification(target, images, trainer=trainer)
