"""Adds tasks to a pipeline, configured for its target."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

from kfp import dsl

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.preflight.form import SETTINGS, SETTINGS_FIELD
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.interface import CheckedRun, make_component
from imgpipe.pipelines.targets.target import StepInputs, Target

# A step with the image, the machine and the extra inputs of another step.
_SETTINGS_OF = {"tune": "train"}


def task_maker(
    target: Target,
    images: Images,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., Any]:
    """Returns ``task(function, **arguments)``, which adds a step to the pipeline under construction.

    ``task(function, function, name=..., **arguments)`` adds a step that runs several functions.
    ``task(function, checked_run=..., **arguments)`` adds the first step, which checks the whole run.

    Args:
        target: The platform. It may replace a step's function, give it extra inputs, and configures the task.
        images: Names of the images.
        inputs: The pipeline's inputs by name.
        settings: In the pipeline of a form, the settings by step; those of ``others`` are for the rest.
    """

    def task(
        *functions: Callable[..., Any],
        name: str = "",
        checked_run: CheckedRun | None = None,
        **arguments: Any,
    ) -> Any:
        names = [function.__name__ for function in functions]
        name = name or names[0]
        step = _SETTINGS_OF.get(name, name)
        extra = target.step_inputs.get(name) or target.step_inputs.get(step, StepInputs())
        component = make_component(
            *(target.steps.get(function.__name__, function) for function in functions),
            name=name,
            base_image=images.of_step(*(_SETTINGS_OF.get(part, part) for part in names), target=target.name),
            extra_inputs=extra.classes,
            settings=SETTINGS_FIELD if settings else None,
            checked_run=checked_run,
        )
        checked = {field: inputs[field] for field in (checked_run.fields if checked_run else ())}
        own = {SETTINGS: settings.get(step, settings["others"])} if settings else {}
        added = component(**{**checked, **arguments, **extra.values(inputs, images), **own})
        target.configure_task(step, added, inputs)
        return added

    return task


def exit_handler(target: Target, images: Images, inputs: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Returns the context of all steps: the target's exit step runs after them, if it has one."""
    if target.exit_step is None:
        return nullcontext()
    handler: AbstractContextManager[Any] = dsl.ExitHandler(
        task_maker(target, images, inputs)(target.exit_step), name="steps"
    )
    return handler


def pipeline_inputs(
    arguments_classes: Iterable[type[Any]], target: Target, images: Images, *, steps: Iterable[str] = ()
) -> "dict[str, dataclasses.Field[Any]]":
    """Returns a pipeline's inputs on a target: the common inputs and those of the target.

    Args:
        arguments_classes: The inputs that all targets have.
        target: The platform.
        images: Names of the images.
        steps: Steps for which a target may have its own inputs.

    Raises:
        ValueError: if pipeline and target declare an input differently.
    """
    own = [declared for step in steps for declared in target.step_arguments.get(step, ())]
    fields, added = flat_fields(arguments_classes), {**target.inputs(images), **flat_fields(own)}
    conflicts = sorted(
        name for name in set(fields) & set(added) if _declaration(fields[name]) != _declaration(added[name])
    )
    if conflicts:
        raise ValueError(f"{', '.join(conflicts)}: declared differently on {target.name}; rename one of them")
    return {**fields, **added}


def _declaration(field: "dataclasses.Field[Any]") -> tuple[Any, ...]:
    return type(field.default), field.default, field.metadata
