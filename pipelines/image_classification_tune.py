"""The pipeline from labeled images to a checked SavedModel of the best of many trials."""

from typing import Any

from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.component import tune
from imgpipe.pipelines.image_classification import Trainer, image_classification
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.target import Target

NAME = "image-classification-tune"
DESCRIPTION = (
    "Labeled images in, the most accurate SavedModel of many trials out: converts and checks the images, "
    "searches values of training arguments, stops unpromising trials, evaluates the best model, publishes it "
    "if a new process gets the evaluation's predictions from it, and deploys it if it passes the gate."
)


def image_classification_tune(target: Target, images: Images | None = None) -> Any:
    """Builds the pipeline for a target: image_classification with the step tune instead of train.

    Args:
        target: The platform that runs it.
        images: Names of the images; by default without registry, tagged with the version.
    """
    trainer = Trainer(tune, (TuneArguments, TrainingArguments), NAME, DESCRIPTION, TUNE_PIPELINE_ARGUMENTS)
    return image_classification(target, images, trainer=trainer)
