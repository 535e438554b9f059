"""The pipeline from images without labels to predictions."""

from collections.abc import Mapping
from typing import Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.component import batch_predict as batch_predict_step
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.interface import chosen, pipeline_of
from imgpipe.pipelines.targets.target import Target
from imgpipe.pipelines.tasks import pipeline_inputs, task_maker

NAME = "batch-predict"
DESCRIPTION = (
    "Images and a model in, a line of JSON for every image out: class, label and probability, or an error "
    "for that image."
)


def batch_predict(target: Target, images: Images | None = None) -> Any:
    """Builds the pipeline for a target; the graph is the same for all of them.

    Args:
        target: Where it will run.
        images: Names of the images; by default without registry, tagged with the version.
    """
    images = images or Images()

    def graph(inputs: Mapping[str, Any]) -> None:
        task_maker(target, images, inputs)(batch_predict_step, **chosen(inputs, BatchPredictArguments))

    fields = pipeline_inputs([BatchPredictArguments], target, images)
    return pipeline_of(graph, name=NAME, description=DESCRIPTION, fields=fields)
