"""Makes the tasks of a pipeline, each as its target wants it."""

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.images import Images
from pipelines.interface import component_of
from pipelines.targets.target import StepInputs, Target

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
        further = target.step_inputs.get(step, StepInputs())
        component = component_of(
            target.steps.get(name, function),
            base_image=images.of_step(step, target.name),
            further_inputs=further.classes,
        )
        made = component(**arguments, **further.values(inputs, images))
        target.place(step, made, inputs)
        return made

    return task
