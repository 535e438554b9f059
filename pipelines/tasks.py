"""Makes the tasks of a pipeline, each as its target wants it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from imgpipe.components.common.arguments import flat_fields
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.interface import component_of
from imgpipe.pipelines.targets.target import StepInputs, Target

# Whatever makes the model has the image, the machine and the further inputs of the training.
_IN_PLACE_OF = {"tune": "train"}


def task_maker(target: Target, images: Images, inputs: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns ``task(function, **arguments)``, which adds a step to the pipeline that is being built.

    Args:
        target: Where it will run: it may put another function in a step's place, give it further inputs, and
            sets what the step's pod needs.
        images: Names of the images.
        inputs: Of the pipeline, by name.
    """

    def task(function: Callable[..., Any], **arguments: Any) -> Any:
        name = function.__name__
        step = _IN_PLACE_OF.get(name, name)
        further = target.step_inputs.get(name) or target.step_inputs.get(step, StepInputs())
        component = component_of(
            target.steps.get(name, function),
            base_image=images.of_step(step, target.name),
            further_inputs=further.classes,
        )
        made = component(**arguments, **further.values(inputs, images))
        target.configure_task(step, made, inputs)
        return made

    return task


def pipeline_inputs(
    arguments_classes: Iterable[type[Any]], target: Target, images: Images, *, steps: Iterable[str] = ()
) -> "dict[str, dataclasses.Field[Any]]":
    """Returns a pipeline's inputs on a target: what it takes everywhere, and what the target adds.

    Args:
        arguments_classes: What it takes everywhere.
        target: Where it will run.
        images: Names of the images.
        steps: Those of its steps for which a target may have inputs of their own.

    Raises:
        ValueError: if the target declares an input otherwise than the pipeline: one would hide the other.
    """
    own = [one for step in steps for one in target.step_arguments.get(step, ())]
    fields, added = flat_fields(arguments_classes), {**target.inputs(images), **flat_fields(own)}
    twice = sorted(
        name for name in set(fields) & set(added) if _declared(fields[name]) != _declared(added[name])
    )
    if twice:
        raise ValueError(f"{', '.join(twice)}: on {target.name} declared in two ways; rename one of them")
    return {**fields, **added}


def _declared(field: "dataclasses.Field[Any]") -> tuple[Any, ...]:
    return type(field.default), field.default, field.metadata
