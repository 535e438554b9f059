"""The target Kubeflow Pipelines: resources of the steps, and the inputs that place the training."""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from imgpipe.components.common.arguments import argument, flat_fields
from imgpipe.components.common.webhook import HAS_NOTIFY_VARIABLE, RUN_VARIABLE, WEBHOOK_VARIABLE
from imgpipe.components.notify.component import notify
from imgpipe.components.platforms.kubernetes.pod_spec import SHARED_MEMORY_FOLDER, SHARED_MEMORY_LIMIT
from imgpipe.components.platforms.kubernetes.storage_secret import (
    STORAGE_KEY_ENTRY,
    STORAGE_KEY_FOLDER,
    STORAGE_KEY_VARIABLE,
)
from imgpipe.components.preflight.component import form_settings
from imgpipe.components.preflight.pod_fields import pod_fields
from imgpipe.components.storage.volumes import VOLUMES_VARIABLE
from imgpipe.components.tune import katib_component
from imgpipe.components.tune.katib_arguments import KatibArguments
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.kubeflow_options import NO_ADDITIONS, KubeflowOptions
from imgpipe.pipelines.targets.target import CACHED_STEPS, StepInputs, Target

# Requested processors and gigabytes of memory: the data steps keep one image per thread in memory, the others
# TensorFlow and a model. For train, they are inputs of the pipeline.
_RESOURCES = {
    "prepare": (1, 1),
    "convert": (2, 2),
    "validate": (2, 2),
    "evaluate": (2, 4),
    "publish": (1, 4),
    "notify": (1, 1),
    "batch_predict": (4, 8),
}
# A pod that cannot start waits for ever otherwise. Seven days are also Vertex AI's limit for a job.
DEADLINE_SECONDS = 7 * 24 * 3600
_DEFAULT_RESOURCES = (1, 2)
# A namespace with a quota on limits admits no pod without them. A step may use this many times its request if
# the node has it to spare.
_LIMIT_FACTOR = 2


def _inputs(images: Images) -> "dict[str, dataclasses.Field[Any]]":
    return pod_fields(images.of_training("cpu"))


def _configure_task(step: str, task: Any, inputs: Mapping[str, Any], *, options: KubeflowOptions) -> None:
    from kfp import kubernetes

    # The other steps depend on more than their inputs, e.g. on the deployed model.
    task.set_caching_options(step in CACHED_STEPS)
    # The Pod Security Standard `restricted` requires it; the users of our images are numbers, which it needs.
    kubernetes.set_security_context(task, run_as_non_root=True)
    kubernetes.use_secret_as_volume(
        task, secret_name=inputs["storage_secret"], mount_path=STORAGE_KEY_FOLDER, optional=True
    )
    kubernetes.use_secret_as_env(
        task,
        secret_name=inputs["storage_secret"],
        secret_key_to_env={STORAGE_KEY_ENTRY: STORAGE_KEY_VARIABLE},
        optional=True,
    )
    kubernetes.use_secret_as_env(
        task,
        secret_name=inputs["webhook_secret"],
        secret_key_to_env={"url": WEBHOOK_VARIABLE},
        optional=True,
    )
    if step != "notify":
        for claim, folder in options.volumes:
            kubernetes.mount_pvc(task, pvc_name=claim, mount_path=folder)
        if options.volumes:
            task.set_env_variable(VOLUMES_VARIABLE, json.dumps(dict(options.volumes)))
        if options.has_notify:
            task.set_env_variable(HAS_NOTIFY_VARIABLE, "1")
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, "metadata.labels['pipeline/runid']")
    if step != "train":
        cpu, memory = _RESOURCES.get(step, _DEFAULT_RESOURCES)
        task.set_cpu_request(str(cpu)).set_cpu_limit(str(_LIMIT_FACTOR * cpu))
        task.set_memory_request(f"{memory}G").set_memory_limit(f"{_LIMIT_FACTOR * memory}G")
        return
    task.set_container_image(inputs["train_image"])
    task.set_cpu_request(inputs["train_cpu"]).set_cpu_limit(inputs["train_cpu"])
    task.set_memory_request(inputs["train_memory"]).set_memory_limit(inputs["train_memory"])
    task.set_accelerator_type(inputs["train_accelerator_type"])
    task.set_accelerator_limit(inputs["train_accelerator_count"])
    kubernetes.add_node_selector_json(task, inputs["train_node_selector"])
    kubernetes.add_toleration_json(task, inputs["train_tolerations"])
    kubernetes.empty_dir_mount(
        task,
        volume_name="shared-memory",
        mount_path=SHARED_MEMORY_FOLDER,
        medium="Memory",
        size_limit=SHARED_MEMORY_LIMIT,
    )


def _data_version(inputs: Mapping[str, Any], _images: Images) -> dict[str, Any]:
    return {"data_version": inputs["data_version"]}


@dataclasses.dataclass(frozen=True)
class DataVersion:
    """The input of convert that invalidates its cache when the data change."""

    data_version: str = argument("", "The state of the data, as the step prepare found it.")


CACHED_CONVERT = StepInputs((DataVersion,), _data_version)


def _tune_values(inputs: Mapping[str, Any], _images: Images) -> dict[str, Any]:
    katib = {name: inputs[name] for name in flat_fields([KatibArguments]) if name in inputs}
    pod = {"trial_image": inputs["train_image"], "trial_storage_secret": inputs["storage_secret"]}
    return {**katib, **pod}


def kubeflow_target(options: KubeflowOptions) -> Target:
    """Returns the target with what is added to its pipelines."""
    return Target(
        "kubeflow",
        partial(_configure_task, options=options),
        inputs=_inputs,
        pod_inputs=("storage_secret", "webhook_secret"),
        steps={"tune": katib_component.tune},
        step_arguments={"tune": (KatibArguments,)},
        # The function itself takes KatibArguments and TrialPodArguments.
        step_inputs={"convert": CACHED_CONVERT, "tune": StepInputs((), _tune_values)},
        form_settings=form_settings,
        caches=True,
        deadline_seconds=DEADLINE_SECONDS,
        # It costs each run three pods.
        exit_step=notify if options.has_notify else None,
    )


KUBEFLOW = kubeflow_target(NO_ADDITIONS)
