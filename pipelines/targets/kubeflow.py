"""Kubeflow Pipelines: what each step asks of the cluster, and what may be set when a run is started."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from imgpipe.components.common.arguments import argument, flat_fields
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.tune import katib_component
from imgpipe.components.tune.katib_arguments import KatibArguments
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.target import CACHED_STEPS, StepInputs, Target, named_field

# Requests of CPU and memory: (cpu, memory). The data steps hold one image a thread; the others hold
# TensorFlow and a model. Those of train are inputs of the pipeline.
_RESOURCES = {
    "data_version": ("1", "1G"),
    "convert": ("2", "1G"),
    "validate": ("2", "1G"),
    "evaluate": ("2", "4G"),
    "export": ("1", "4G"),
    "gate": ("1", "1G"),
    "deploy": ("1", "4G"),
    "batch_predict": ("4", "8G"),
}
_OTHERWISE = ("1", "2G")
# Where a key for the storage lies in a pod, if there is such a secret.
_KEY_FOLDER = "/var/run/imgpipe/storage"
# TensorFlow's data threads and NCCL share memory; a pod's own /dev/shm has 64 MB.
_SHARED_MEMORY = "8Gi"


def _inputs(images: Images) -> "dict[str, dataclasses.Field[Any]]":
    declared = {
        "data_version": dataclasses.field(
            default="", metadata=DataVersionArguments.__dataclass_fields__["data_version"].metadata
        ),
        "train_image": argument(
            images.of_training("cpu"),
            "Image of the train step; it must hold imgpipe, with the TensorFlow build for the accelerator: "
            "imgpipe-train-cpu, imgpipe-train-gpu or imgpipe-train-tpu.",
        ),
        "train_cpu": argument("4", "Processors that the train step asks for, as Kubernetes writes them."),
        "train_memory": argument(
            "8G", "Memory that the train step asks for, as Kubernetes writes it, e.g. 16G."
        ),
        "train_accelerator_type": argument(
            "", "Resource name of the accelerator: nvidia.com/gpu or google.com/tpu. Empty = none."
        ),
        "train_accelerator_count": argument("0", "GPUs, or TPU chips, of the train step."),
        "train_node_selector": argument(
            {},
            "Labels of the nodes on which the train step may run, as a JSON object, e.g. "
            '{"cloud.google.com/gke-accelerator": "nvidia-l4"}. {} = any node.',
        ),
        "train_tolerations": argument(
            [],
            "Taints of nodes that the train step puts up with, as a JSON list, e.g. "
            '[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]. [] = none.',
        ),
        "storage_secret": argument(
            "imgpipe-storage",
            "Secret with a service account's key for Cloud Storage, if the pods have no identity of their "
            f"own for it: under key.json the key file, under path the text {_KEY_FOLDER}/key.json. It need "
            "not exist.",
        ),
    }
    return {name: named_field(name, field) for name, field in declared.items()}


def _configure_task(step: str, task: Any, inputs: Mapping[str, Any]) -> None:
    from kfp import kubernetes

    # Off but for the data steps: evaluation and export check what is there now.
    task.set_caching_options(step in CACHED_STEPS)
    kubernetes.use_secret_as_volume(
        task, secret_name=inputs["storage_secret"], mount_path=_KEY_FOLDER, optional=True
    )
    # The variable is set only where the secret is: one that names a missing file would break the identity
    # that a pod has by itself.
    kubernetes.use_secret_as_env(
        task,
        secret_name=inputs["storage_secret"],
        secret_key_to_env={"path": "GOOGLE_APPLICATION_CREDENTIALS"},
        optional=True,
    )
    if step != "train":
        cpu, memory = _RESOURCES.get(step, _OTHERWISE)
        task.set_cpu_request(cpu)
        task.set_memory_request(memory)
        return
    task.set_container_image(inputs["train_image"])
    task.set_cpu_request(inputs["train_cpu"])
    task.set_memory_request(inputs["train_memory"])
    task.set_accelerator_type(inputs["train_accelerator_type"])
    task.set_accelerator_limit(inputs["train_accelerator_count"])
    kubernetes.add_node_selector_json(task, inputs["train_node_selector"])
    kubernetes.add_toleration_json(task, inputs["train_tolerations"])
    kubernetes.empty_dir_mount(
        task,
        volume_name="shared-memory",
        mount_path="/dev/shm",  # noqa: S108 - the place where Linux has it
        medium="Memory",
        size_limit=_SHARED_MEMORY,
    )


def _data_version(inputs: Mapping[str, Any], _images: Images) -> dict[str, Any]:
    return {"data_version": inputs["data_version"]}


@dataclasses.dataclass(frozen=True)
class DataVersion:
    """The input that makes a cache tell yesterday's data from today's."""

    data_version: str = argument("", "The state of the data, as the data_version step found it.")


CACHED_CONVERT = StepInputs((DataVersion,), _data_version)


def _tune_values(inputs: Mapping[str, Any], _images: Images) -> dict[str, Any]:
    chosen = {name: inputs[name] for name in flat_fields([KatibArguments])}
    filled_in = {"trial_image": inputs["train_image"], "trial_storage_secret": inputs["storage_secret"]}
    return {**chosen, **filled_in}


KUBEFLOW = Target(
    "kubeflow",
    _configure_task,
    inputs=_inputs,
    steps={"tune": katib_component.tune},
    step_arguments={"tune": (KatibArguments,)},
    # KatibArguments and TrialPodArguments are the function's own.
    step_inputs={"convert": CACHED_CONVERT, "tune": StepInputs((), _tune_values)},
    caches=True,
)
