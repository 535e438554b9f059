"""Vertex AI Pipelines: what each step asks for. Training is a CustomJob that its step starts and follows."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.custom_job import component as custom_job
from imgpipe.components.custom_job.arguments import CustomJobArguments
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.tune import vertex_component as tuning_job
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow import CACHED_CONVERT
from imgpipe.pipelines.targets.target import CACHED_STEPS, StepInputs, Target, named_field

# Processors and memory of each step: Vertex AI takes the smallest machine that has them.
_RESOURCES = {
    "data_version": ("2", "4G"),
    "convert": ("4", "8G"),
    "validate": ("4", "8G"),
    "train": ("2", "4G"),
    "evaluate": ("4", "16G"),
    "export": ("4", "16G"),
}
_OTHERWISE = ("2", "8G")
# Vertex AI puts the run's own in their place: no compiled file knows a project.
_PROJECT = "{{$.pipeline_google_cloud_project_id}}"
_RUN = "{{$.pipeline_job_resource_name}}"
_REGION = "{{$.pipeline_google_cloud_location}}"


def _inputs(_images: Images) -> "dict[str, dataclasses.Field[Any]]":
    version = named_field(
        "data_version",
        dataclasses.field(
            default="", metadata=DataVersionArguments.__dataclass_fields__["data_version"].metadata
        ),
    )
    return {"data_version": version, **flat_fields([CustomJobArguments])}


def _place(step: str, task: Any, _inputs: Mapping[str, Any]) -> None:
    cpu, memory = _RESOURCES.get(step, _OTHERWISE)
    task.set_cpu_limit(cpu)
    task.set_memory_limit(memory)
    task.set_caching_options(step in CACHED_STEPS)


def _of_training(inputs: Mapping[str, Any], images: Images) -> dict[str, Any]:
    ours = {kind: images.of_training(kind) for kind in ("cpu", "gpu", "tpu")}
    chosen = {name: inputs[name] for name in flat_fields([CustomJobArguments])}
    filled_in = {"project": _PROJECT, "region": _REGION, "pipeline_run": _RUN}
    return {**chosen, **filled_in, "images": json.dumps(ours)}


VERTEX = Target(
    "vertex",
    _place,
    inputs=_inputs,
    steps={"train": custom_job.train, "tune": tuning_job.tune},
    # RunArguments and CustomJobArguments are the function's own.
    step_inputs={"convert": CACHED_CONVERT, "train": StepInputs((), _of_training)},
    caches=True,
)
