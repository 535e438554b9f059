"""The pipeline from images to predictions."""

from collections.abc import Mapping
from typing import Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.component import batch_predict as batch_predict_step
from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.preflight.form import REQUIRED, form_manual
from imgpipe.components.preflight.pipeline_inputs import BATCH_PREDICT
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.interface import CheckedRun, make_pipeline, select_fields
from imgpipe.pipelines.targets.target import Target
from imgpipe.pipelines.tasks import exit_handler, task_maker

NAME = "batch-predict"
DESCRIPTION = (
    "Images and a model in, one line of JSON per image out: class, label and probability, or the error "
    "of that image."
)


def batch_predict(target: Target, images: Images) -> Any:
    """Builds the pipeline for a target; the graph is the same for all targets.

    Args:
        target: The platform that runs it.
        images: Names of the images.
    """

    def graph(inputs: Mapping[str, Any]) -> None:
        run = CheckedRun(BATCH_PREDICT, target.name, fields)
        arguments = select_fields(inputs, BatchPredictArguments)
        with exit_handler(target, images, inputs):
            task_maker(target, images, inputs)(batch_predict_step, checked_run=run, **arguments)

    # Few enough for a form as they are.
    has_form = target.form_settings is not None
    own = target.inputs(images)
    fields = {**flat_fields([BatchPredictArguments]), **{name: own[name] for name in target.pod_inputs}}
    return make_pipeline(
        graph,
        name=NAME,
        description=form_manual(DESCRIPTION, REQUIRED[BATCH_PREDICT], fields) if has_form else DESCRIPTION,
        fields=fields,
        deadline_seconds=target.deadline_seconds,
        drop_downs=has_form,
    )
