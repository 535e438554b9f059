"""The pipeline from labelled images to a checked SavedModel."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.common.arguments import flat_fields
from components.convert.arguments import ConvertArguments
from components.convert.component import convert
from components.deploy.arguments import DeployArguments
from components.deploy.component import deploy
from components.evaluate.arguments import EvaluateArguments
from components.evaluate.component import evaluate
from components.export.arguments import ExportArguments
from components.export.component import export
from components.gate.arguments import GateArguments
from components.gate.component import gate
from components.train.arguments import TrainingArguments
from components.train.component import train
from components.validate.arguments import ValidateArguments
from components.validate.component import validate
from pipelines.images import image_of
from pipelines.interface import chosen, component_of, pipeline_of
from pipelines.parameters import PIPELINE_ARGUMENTS
from pipelines.targets.target import Target

NAME = "image-classification"
DESCRIPTION = (
    "Labelled images in, the most accurate SavedModel out: converts and checks the images, trains, "
    "evaluates, publishes the model once a fresh process has answered with it as the evaluation did, and "
    "deploys it if it passes the gate."
)


def image_classification(target: Target) -> Any:
    """Builds the pipeline for a target; the graph is the same for all of them."""

    def graph(inputs: Mapping[str, Any]) -> None:
        def task(function: Any, **arguments: Any) -> Any:
            step = function.__name__
            made = component_of(function, base_image=image_of(step))(**arguments)
            target.place(step, made)
            return made

        converted = task(convert, **chosen(inputs, ConvertArguments))
        dataset = converted.outputs["dataset"]
        validated = task(validate, dataset=dataset, **chosen(inputs, ValidateArguments))
        trained = task(train, dataset=dataset, **chosen(inputs, TrainingArguments)).after(validated)
        model = trained.outputs["model"]
        evaluated = task(evaluate, dataset=dataset, model=model, **chosen(inputs, EvaluateArguments))
        exported = task(
            export,
            dataset=dataset,
            model=model,
            evaluation=evaluated.outputs["evaluation"],
            **chosen(inputs, ExportArguments),
        )
        gated = task(gate, evaluation=evaluated.outputs["evaluation"], **chosen(inputs, GateArguments)).after(
            exported
        )
        # A model that is blocked ends the pipeline here, and well.
        with dsl.If(gated.outputs["Output"] == True, "passed the gate"):  # noqa: E712 - a channel, no bool
            task(deploy, model=exported.outputs["exported_model"], **chosen(inputs, DeployArguments))

    return pipeline_of(graph, name=NAME, description=DESCRIPTION, fields=flat_fields(PIPELINE_ARGUMENTS))
