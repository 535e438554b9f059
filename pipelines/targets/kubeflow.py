"""Kubeflow Pipelines: resources and caching of each step."""

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
}
# Their output follows from their inputs alone. A training is not repeated bit by bit, and an export
# must publish even if it did so before.
_CACHED = ("convert", "validate")


def _place(step: str, task: Any) -> None:
    cpu, memory = _RESOURCES[step]
    task.set_cpu_request(cpu)
    task.set_memory_request(memory)
    task.set_caching_options(step in _CACHED)


KUBEFLOW = Target("kubeflow", _place)
