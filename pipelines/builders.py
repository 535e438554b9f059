"""What builds each compiled file."""

from collections.abc import Callable
from functools import partial
from typing import Any

from imgpipe.components.preflight.pipeline_inputs import BATCH_PREDICT
from imgpipe.pipelines.batch_predict import batch_predict
from imgpipe.pipelines.compiled_pipelines import all_arguments_file
from imgpipe.pipelines.image_classification import PIPELINES
from imgpipe.pipelines.targets.target import Target


def builders_of(target: Target) -> dict[str, Callable[..., Any]]:
    """Returns what builds a target's pipelines, given target and images, by the name of the compiled file.

    Where a person fills in a form, ``NAME.yaml`` has few inputs and ``NAME_all_arguments.yaml`` has all.
    """
    builders = {all_arguments_file(name, target.name): build for name, build in PIPELINES.items()}
    if target.form_settings is not None:
        builders = {**{name: partial(build, form=True) for name, build in PIPELINES.items()}, **builders}
    return {**builders, BATCH_PREDICT: batch_predict}
