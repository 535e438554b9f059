"""The pipeline from labelled images to the checked SavedModel of the best of many trainings."""

from typing import Any

from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.component import tune
from imgpipe.pipelines.image_classification import Trainer, image_classification
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.parameters import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.targets.target import Target

NAME = "image-classification-tune"
DESCRIPTION = (
    "Labelled images in, the most accurate SavedModel of many trainings out: converts and checks the images, "
    "tries values of the training's arguments, stops trials without prospects, evaluates the best model, "
    "publishes it once a fresh process has answered with it as the evaluation did, and deploys it if it "
    "passes the gate."
)


def image_classification_tune(target: Target, images: Images | None = None) -> Any:
    """Builds the pipeline for a target: image_classification with the tune step in the place of train.

    Args:
        target: Where it will run.
        images: Names of the images; by default without registry, tagged with the version.
    """
    trainer = Trainer(tune, (TuneArguments, TrainingArguments), NAME, DESCRIPTION, TUNE_PIPELINE_ARGUMENTS)
    return image_classification(target, images, trainer=trainer)
