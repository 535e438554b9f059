"""What a target is."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from imgpipe.pipelines.images import Images


def _no_inputs(_images: Images) -> "dict[str, dataclasses.Field[Any]]":
    return {}


def _no_values(_inputs: Mapping[str, Any], _images: Images) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class StepInputs:
    """What a step takes on one target besides what it takes on all.

    Attributes:
        classes: Arguments dataclasses whose fields become inputs of the component.
        values: ``values(inputs, images)`` gives them from the pipeline's inputs.
    """

    classes: tuple[type[Any], ...] = ()
    values: Callable[[Mapping[str, Any], Images], dict[str, Any]] = _no_values


@dataclass(frozen=True)
class Target:
    """A place where a pipeline runs.

    Attributes:
        name: Of the folder of its compiled pipelines.
        place: ``place(step, task, inputs)`` sets what this target needs of a step's task, e.g. its resources.
        inputs: ``inputs(images)`` gives the pipeline's further inputs on this target.
        steps: Functions that take the place of a step's own, by the step's name.
        inputs_of_step: Arguments dataclasses whose fields a pipeline with this step takes on this target as
            well: the function that stands in the step's place takes them.
        step_inputs: By step.
        caches: Whether convert and validate are taken from the cache while the data's version is the same.
    """

    name: str
    place: Callable[[str, Any, Mapping[str, Any]], None]
    inputs: "Callable[[Images], Mapping[str, dataclasses.Field[Any]]]" = _no_inputs
    steps: Mapping[str, Callable[..., Any]] = field(default_factory=lambda: MappingProxyType({}))
    inputs_of_step: Mapping[str, tuple[type[Any], ...]] = field(default_factory=lambda: MappingProxyType({}))
    step_inputs: Mapping[str, StepInputs] = field(default_factory=lambda: MappingProxyType({}))
    caches: bool = False


# What a cache key is made of: the rest of convert's inputs are paths, and a path stays when the files change.
CACHED_STEPS = ("convert", "validate")


def named(name: str, declared: Any) -> "dataclasses.Field[Any]":
    """Returns a field that was declared outside a class, under its name."""
    declared.name = name
    return declared  # type: ignore[no-any-return]
