"""The pipelines from labeled images to a checked SavedModel: one run, many trials, or a retraining."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.component import convert
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.data_version.component import data_version
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.component import deploy
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.component import evaluate
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.export.component import export
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.gate.component import gate
from imgpipe.components.preflight.form import (
    FORM_OUTPUTS,
    REQUIRED,
    SETTINGS_OUTPUTS,
    form_fields,
    form_manual,
)
from imgpipe.components.preflight.pipeline_inputs import (
    PIPELINE_ARGUMENTS,
    RETRAIN,
    TRAIN,
    TUNE,
    TUNE_PIPELINE_ARGUMENTS,
)
from imgpipe.components.serving_model.arguments import ServingModelArguments
from imgpipe.components.serving_model.component import serving_model
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.component import train
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.component import tune
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.component import validate
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.interface import CheckedRun, make_pipeline, select_fields
from imgpipe.pipelines.targets.target import Target
from imgpipe.pipelines.tasks import exit_handler, pipeline_inputs, task_maker

# The steps that run several components.
PREPARE, PUBLISH = "prepare", "publish"


@dataclass(frozen=True)
class Trainer:
    """The step that trains the model, and its pipeline.

    Attributes:
        function: The component function; on every target it replaces train.
        name: The pipeline's name.
        description: The pipeline's description.
        inputs: The pipeline's arguments dataclasses.
        from_serving_model: Whether it starts from the weights of the deployed model.
    """

    function: Callable[..., Any]
    name: str
    description: str
    inputs: tuple[type[Any], ...]
    from_serving_model: bool = False


_TRAIN = Trainer(
    train,
    "image-classification",
    "Labeled images in, the most accurate SavedModel out: converts and checks the images, trains, "
    "evaluates, publishes the model if a new process gets the evaluation's predictions from it, and "
    "deploys it if it passes the gate.",
    PIPELINE_ARGUMENTS,
)
_TUNE = Trainer(
    tune,
    "image-classification-tune",
    "Labeled images in, the most accurate SavedModel of many trials out: converts and checks the images, "
    "searches values of training arguments, stops unpromising trials, evaluates the best model, publishes it "
    "if a new process gets the evaluation's predictions from it, and deploys it if it passes the gate.",
    TUNE_PIPELINE_ARGUMENTS,
)
_RETRAIN = Trainer(
    train,
    "image-classification-retrain",
    "Labeled images and the serving model in, a better SavedModel out: converts and checks the images, "
    "continues training from the serving model's weights, evaluates both models on the same images, "
    "publishes the new model if a new process gets the evaluation's predictions from it, and deploys it in "
    "place of the serving model if it passes the gate. While no model is deployed, it starts like "
    "image-classification.",
    PIPELINE_ARGUMENTS,
    from_serving_model=True,
)


def image_classification(
    target: Target, images: Images, *, trainer: Trainer = _TRAIN, form: bool = False
) -> Any:
    """Builds the pipeline for a target; the graph is the same for all targets, except for what they add.

    Args:
        target: The platform that runs it.
        images: Names of the images.
        trainer: The step that trains the model; by default one training.
        form: Whether its inputs are the few of a form for people; the first step passes on all others.
    """
    pipeline = trainer.name.replace("-", "_")

    def graph(inputs: Mapping[str, Any]) -> None:
        with exit_handler(target, images, inputs):
            steps(inputs)

    def prepare(inputs: Mapping[str, Any]) -> Any | None:
        """Adds the first step: what takes a second has no pod of its own. None if there is nothing to do."""
        components, arguments = list[Callable[..., Any]](), dict[str, Any]()
        if target.caches:
            components.append(data_version)
            arguments.update(select_fields(inputs, DataVersionArguments))
        if form and target.form_settings:
            kinds = {kind: images.of_training(kind) for kind in ("cpu", "gpu", "tpu")}
            components.append(target.form_settings)
            arguments["training_images"] = json.dumps(kinds)
        if trainer.from_serving_model:
            components.append(serving_model)
            arguments.update(select_fields(inputs, ServingModelArguments))
        if not components:
            return None
        run = CheckedRun(pipeline, target.name, fields)
        return task_maker(target, images, inputs)(*components, name=PREPARE, checked_run=run, **arguments)

    def steps(inputs: Mapping[str, Any]) -> None:
        data = select_fields(inputs, ConvertArguments)
        prepared = prepare(inputs)
        if prepared is None:
            run = CheckedRun(pipeline, target.name, fields)
            task = task_maker(target, images, inputs)
            converted = task(convert, checked_run=run, **data)
        else:
            outputs = FORM_OUTPUTS if form else {"data_version": "version"} if target.caches else {}
            settings_outputs = SETTINGS_OUTPUTS if form else {}
            inputs = {**inputs, **{name: prepared.outputs[output] for name, output in outputs.items()}}
            given = {step: prepared.outputs[output] for step, output in settings_outputs.items()}
            task = task_maker(target, images, inputs, given)
            converted = task(convert, **data).after(prepared)
        dataset = converted.outputs["dataset"]
        validated = task(validate, dataset=dataset, **select_fields(inputs, ValidateArguments))
        # Only the pipeline with trials has inputs of TuneArguments.
        settings = select_fields(inputs, TuneArguments, TrainingArguments)
        if trainer.from_serving_model and prepared is not None:
            settings["pretrained_checkpoint_path"] = prepared.outputs["initial_model"]
        trained = task(trainer.function, dataset=dataset, **settings).after(validated)
        model = trained.outputs["model"]
        evaluated = task(evaluate, dataset=dataset, model=model, **select_fields(inputs, EvaluateArguments))
        task(
            *(export, gate, deploy),
            name=PUBLISH,
            dataset=dataset,
            model=model,
            evaluation=evaluated.outputs["evaluation"],
            **select_fields(inputs, ExportArguments, GateArguments, DeployArguments),
        )

    if form:
        fields = form_fields(pipeline)
        description = form_manual(trainer.description, REQUIRED[pipeline], fields)
    else:
        description = trainer.description
        fields = pipeline_inputs(trainer.inputs, target, images, steps=[trainer.function.__name__])
    return make_pipeline(
        graph,
        name=f"{trainer.name}-all-arguments" if target.form_settings and not form else trainer.name,
        description=description,
        fields=fields,
        deadline_seconds=target.deadline_seconds,
        drop_downs=form,
    )


# Each builds a pipeline, given a target and images, by its name.
PIPELINES: dict[str, Callable[..., Any]] = {
    TRAIN: image_classification,
    TUNE: partial(image_classification, trainer=_TUNE),
    RETRAIN: partial(image_classification, trainer=_RETRAIN),
}
