"""The first step of a form on Kubeflow as a KFP component."""

# KFP reads its annotations as values: OutputPath(str) is a call.
# mypy: disable-error-code="valid-type"

import json
from pathlib import Path
from typing import Any

from kfp.dsl import OutputPath

from imgpipe.components.common.arguments import RunValues
from imgpipe.components.preflight.form import TrainingImages, settings_of_steps
from imgpipe.components.preflight.pod_fields import pod_fields


def form_settings(
    convert_settings: OutputPath(dict),
    validate_settings: OutputPath(dict),
    training_settings: OutputPath(dict),
    other_settings: OutputPath(dict),
    pod_image: OutputPath(str),
    pod_cpu: OutputPath(str),
    pod_memory: OutputPath(str),
    pod_accelerator_type: OutputPath(str),
    pod_accelerator_count: OutputPath(str),
    pod_node_selector: OutputPath(dict),
    pod_tolerations: OutputPath(list),
    images: TrainingImages,  # noqa: ARG001 - read by the check of the form
    run: RunValues,
) -> None:
    """Passes on the settings of the form.

    Args:
        convert_settings: The arguments of convert that have no field in the form.
        validate_settings: Those of validate.
        training_settings: Those of the training.
        other_settings: Those of the other steps.
        pod_image: The image of the training.
        pod_cpu: Its processors.
        pod_memory: Its memory.
        pod_accelerator_type: The resource name of its accelerator; empty = none.
        pod_accelerator_count: Its number of accelerators.
        pod_node_selector: The labels of its nodes.
        pod_tolerations: Its tolerations.
        images: The images of the training.
        run: All arguments of the run.
    """
    pods = {name: run.get(name, field.default) for name, field in pod_fields().items()}
    settings = settings_of_steps(run)
    outputs: dict[str, Any] = {
        convert_settings: settings["convert"],
        validate_settings: settings["validate"],
        training_settings: settings["train"],
        other_settings: settings["others"],
        pod_image: pods["train_image"],
        pod_cpu: pods["train_cpu"],
        pod_memory: pods["train_memory"],
        pod_accelerator_type: pods["train_accelerator_type"],
        pod_accelerator_count: pods["train_accelerator_count"],
        pod_node_selector: pods["train_node_selector"],
        pod_tolerations: pods["train_tolerations"],
    }
    for path, value in outputs.items():
        Path(path).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
