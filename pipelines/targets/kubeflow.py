"""Kubeflow Pipelines: what each step asks of the cluster."""

from typing import Any

from pipelines.targets.target import Target

# Requests of CPU and memory: (cpu, memory). The data steps hold one image a thread; the others hold
# TensorFlow and a model.
_RESOURCES = {
    "convert": ("2", "1G"),
    "validate": ("2", "1G"),
    "train": ("4", "8G"),
    "evaluate": ("2", "4G"),
    "export": ("1", "4G"),
    "gate": ("1", "1G"),
    "deploy": ("1", "4G"),
    "batch_predict": ("4", "8G"),
}


def _place(step: str, task: Any) -> None:
    cpu, memory = _RESOURCES[step]
    task.set_cpu_request(cpu)
    task.set_memory_request(memory)
    # KFP's cache knows an input by its path, not by what lies there: corrected images in the same place would
    # be served the old data set.
    task.set_caching_options(False)


KUBEFLOW = Target("kubeflow", _place)
