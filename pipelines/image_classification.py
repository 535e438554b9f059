"""The pipelines from labeled images to a checked SavedModel: one training, many trials, or a retraining."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kfp import dsl

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


@dataclass(frozen=True)
class Trainer:
    """The step that trains the model, and its pipeline.

    Attributes:
        function: The component function; on every target it replaces train.
        arguments: Its arguments dataclasses.
        name: The pipeline's name.
        description: The pipeline's description.
        inputs: The pipeline's arguments dataclasses.
        from_serving_model: Whether it starts from the weights of the deployed model.
    """

    function: Callable[..., Any]
    arguments: tuple[type[Any], ...]
    name: str
    description: str
    inputs: tuple[type[Any], ...]
    from_serving_model: bool = False


_TRAIN = Trainer(
    train,
    (TrainingArguments,),
    "image-classification",
    "Labeled images in, the most accurate SavedModel out: converts and checks the images, trains, "
    "evaluates, publishes the model if a new process gets the evaluation's predictions from it, and "
    "deploys it if it passes the gate.",
    PIPELINE_ARGUMENTS,
)
_TUNE = Trainer(
    tune,
    (TuneArguments, TrainingArguments),
    "image-classification-tune",
    "Labeled images in, the most accurate SavedModel of many trials out: converts and checks the images, "
    "searches values of training arguments, stops unpromising trials, evaluates the best model, publishes it "
    "if a new process gets the evaluation's predictions from it, and deploys it if it passes the gate.",
    TUNE_PIPELINE_ARGUMENTS,
)
_RETRAIN = Trainer(
    train,
    (TrainingArguments,),
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
    target: Target, images: Images | None = None, *, trainer: Trainer = _TRAIN, form: bool = False
) -> Any:
    """Builds the pipeline for a target; the graph is the same for all targets, except for what they add.

    Args:
        target: The platform that runs it.
        images: Names of the images; by default without registry, tagged with the version.
        trainer: The step that trains the model; by default one training.
        form: Whether its inputs are the few of a form for people; the first step passes on all others.
    """
    images = images or Images()
    pipeline = trainer.name.replace("-", "_")

    def graph(inputs: Mapping[str, Any]) -> None:
        with exit_handler(target, images, inputs):
            steps(inputs)

    def steps(inputs: Mapping[str, Any]) -> None:
        task = task_maker(target, images, inputs)
        data = select_fields(inputs, ConvertArguments)
        run = CheckedRun(pipeline, target.name, fields)
        if form:
            kinds = {kind: images.of_training(kind) for kind in ("cpu", "gpu", "tpu")}
            first = task(
                target.form_step,
                checked_run=run,
                training_images=json.dumps(kinds),
                **select_fields(inputs, DataVersionArguments),
            )
            inputs = {**inputs, **{name: first.outputs[output] for name, output in FORM_OUTPUTS.items()}}
            task = task_maker(
                target,
                images,
                inputs,
                {step: first.outputs[output] for step, output in SETTINGS_OUTPUTS.items()},
            )
            converted = task(convert, **data)
        elif target.caches:
            # Never cached, so that the check runs in every run.
            version = task(data_version, checked_run=run, **select_fields(inputs, DataVersionArguments))
            inputs = {**inputs, "data_version": version.outputs["version"]}
            converted = task_maker(target, images, inputs)(convert, **data)
        else:
            converted = task(convert, checked_run=run, **data)
        dataset = converted.outputs["dataset"]
        validated = task(validate, dataset=dataset, **select_fields(inputs, ValidateArguments))
        settings = select_fields(inputs, *trainer.arguments)
        if trainer.from_serving_model:
            serving = task(serving_model, **select_fields(inputs, ServingModelArguments)).after(validated)
            settings["pretrained_checkpoint_path"] = serving.outputs["Output"]
        trained = task(trainer.function, dataset=dataset, **settings).after(validated)
        model = trained.outputs["model"]
        evaluated = task(evaluate, dataset=dataset, model=model, **select_fields(inputs, EvaluateArguments))
        exported = task(
            export,
            dataset=dataset,
            model=model,
            evaluation=evaluated.outputs["evaluation"],
            **select_fields(inputs, ExportArguments),
        )
        gated = task(
            gate, evaluation=evaluated.outputs["evaluation"], **select_fields(inputs, GateArguments)
        ).after(exported)
        # A model that does not pass ends the pipeline here, successfully.
        with dsl.If(gated.outputs["Output"] == True, "passed the gate"):  # noqa: E712 - a channel, not a bool
            task(deploy, model=exported.outputs["exported_model"], **select_fields(inputs, DeployArguments))

    if form:
        fields = form_fields(pipeline)
        description = form_manual(trainer.description, REQUIRED[pipeline], fields)
    else:
        description = trainer.description
        fields = pipeline_inputs(trainer.inputs, target, images, steps=[trainer.function.__name__])
    return make_pipeline(
        graph,
        name=f"{trainer.name}-all-arguments" if target.form_step and not form else trainer.name,
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
