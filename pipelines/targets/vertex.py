"""The target Vertex AI Pipelines: resources of each step; the train step runs a CustomJob."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from imgpipe.components.common.arguments import flat_fields, named_field, same_argument
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE
from imgpipe.components.custom_job import component as custom_job
from imgpipe.components.custom_job.arguments import CustomJobArguments
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.tune import vertex_component as tuning_job
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow import CACHED_CONVERT
from imgpipe.pipelines.targets.target import CACHED_STEPS, StepInputs, Target

# CPUs and memory of each step: Vertex AI chooses the smallest machine that has them.
_RESOURCES = {
    "prepare": ("2", "4G"),
    "convert": ("4", "8G"),
    "validate": ("4", "8G"),
    "train": ("2", "4G"),
    "evaluate": ("4", "16G"),
    "publish": ("4", "16G"),
}
_DEFAULT_RESOURCES = ("2", "8G")
# Placeholders that Vertex AI replaces: no compiled file contains a project.
_PROJECT = "{{$.pipeline_google_cloud_project_id}}"
_RUN = "{{$.pipeline_job_resource_name}}"
_REGION = "{{$.pipeline_google_cloud_location}}"


def _inputs(_images: Images) -> "dict[str, dataclasses.Field[Any]]":
    version = named_field("data_version", same_argument(DataVersionArguments, "data_version"))
    return {"data_version": version, **flat_fields([CustomJobArguments])}


def _configure_task(step: str, task: Any, _inputs: Mapping[str, Any]) -> None:
    cpu, memory = _RESOURCES.get(step, _DEFAULT_RESOURCES)
    task.set_cpu_limit(cpu)
    task.set_memory_limit(memory)
    task.set_caching_options(step in CACHED_STEPS)
    # Cloud Logging parses it.
    task.set_env_variable(LOG_FORMAT_VARIABLE, JSON)


def _training_values(inputs: Mapping[str, Any], images: Images) -> dict[str, Any]:
    job = {name: inputs[name] for name in flat_fields([CustomJobArguments])}
    placeholders = {"project": _PROJECT, "region": _REGION, "pipeline_run": _RUN}
    training_images = {kind: images.of_training(kind, "vertex") for kind in ("cpu", "gpu", "tpu")}
    return {**job, **placeholders, "images": json.dumps(training_images)}


VERTEX = Target(
    "vertex",
    _configure_task,
    inputs=_inputs,
    steps={"train": custom_job.train, "tune": tuning_job.tune},
    # The train function declares RunArguments and CustomJobArguments itself.
    step_inputs={"convert": CACHED_CONVERT, "train": StepInputs((), _training_values)},
    caches=True,
)
