"""What a target adds to the pipelines."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from imgpipe.pipelines.images import Images


@dataclass(frozen=True)
class StepInputs:
    """Inputs that a step has on one target only.

    Attributes:
        classes: Arguments dataclasses that add their fields to the component's inputs.
        values: ``values(inputs, images)`` returns their values, made from the pipeline's inputs.
    """

    classes: tuple[type[Any], ...] = ()
    values: Callable[[Mapping[str, Any], Images], dict[str, Any]] = lambda _inputs, _images: {}


@dataclass(frozen=True)
class Target:
    """A platform that runs the pipelines.

    Attributes:
        name: Name of the target and of the folder of its compiled pipelines.
        configure_task: ``configure_task(step, task, inputs)`` sets the task's resources, image, caching, ...
        inputs: ``inputs(images)`` returns the pipeline inputs that only this target has.
        pod_inputs: Names of those that every step's pod needs; the others are the training's.
        steps: Component functions that replace the common ones, by step.
        step_arguments: Arguments dataclasses that a function in ``steps`` takes in addition, by step. A
            pipeline with the step has their fields as inputs.
        step_inputs: Inputs of a component that the pipeline fills in, by step.
        form_settings: Component function, in the first step of the pipelines that have a form with few
            fields; None = they have none.
        caches: Whether convert and validate are cached while the data's version stays the same.
        deadline_seconds: Time after which a run is ended; None = never.
        exit_step: Component function that runs after all others, also if they fail; None = none.
    """

    name: str
    configure_task: Callable[[str, Any, Mapping[str, Any]], None]
    inputs: "Callable[[Images], Mapping[str, dataclasses.Field[Any]]]" = lambda _images: {}
    pod_inputs: tuple[str, ...] = ()
    steps: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: MappingProxyType({}))
    step_arguments: Mapping[str, tuple[type[Any], ...]] = field(default_factory=lambda: MappingProxyType({}))
    step_inputs: Mapping[str, StepInputs] = field(default_factory=lambda: MappingProxyType({}))
    form_settings: Callable[..., Any] | None = None
    caches: bool = False
    deadline_seconds: int | None = None
    exit_step: Callable[..., Any] | None = None


# The only steps whose inputs include the data's version: a path stays the same when the files change.
CACHED_STEPS = ("convert", "validate")
