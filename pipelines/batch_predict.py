"""The pipeline from images without labels to predictions."""

from collections.abc import Mapping
from typing import Any

from components.batch_predict.arguments import BatchPredictArguments
from components.batch_predict.component import batch_predict as batch_predict_step
from components.common.arguments import flat_fields
from pipelines.images import image_of
from pipelines.interface import chosen, component_of, pipeline_of
from pipelines.targets.target import Target

NAME = "batch-predict"
DESCRIPTION = (
    "Images and a model in, a line of JSON for every image out: class, label and probability, or an error "
    "for that image."
)


def batch_predict(target: Target) -> Any:
    """Builds the pipeline for a target; the graph is the same for all of them."""

    def graph(inputs: Mapping[str, Any]) -> None:
        step = batch_predict_step.__name__
        component = component_of(batch_predict_step, base_image=image_of(step))
        target.place(step, component(**chosen(inputs, BatchPredictArguments)))

    return pipeline_of(graph, name=NAME, description=DESCRIPTION, fields=flat_fields([BatchPredictArguments]))
