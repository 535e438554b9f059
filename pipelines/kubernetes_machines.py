"""Translates a machine of the table into the resources of a pod."""

import json
import math
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.kubernetes.pod_rules import GPU_RESOURCE, TPU_RESOURCE
from imgpipe.pipelines.machines import Machine, vcpus_and_memory

# A node reserves part of its processors and memory; a pod that requests all of them is never scheduled.
_ALLOCATABLE_SHARE = 0.75
# Labels of GKE nodes.
_GPU_LABEL = "cloud.google.com/gke-accelerator"
_TPU_LABEL = "cloud.google.com/gke-tpu-accelerator"
_TOPOLOGY_LABEL = "cloud.google.com/gke-tpu-topology"
_GPU_NAMES = {
    "NVIDIA_TESLA_T4": "nvidia-tesla-t4",
    "NVIDIA_TESLA_V100": "nvidia-tesla-v100",
    "NVIDIA_TESLA_P4": "nvidia-tesla-p4",
    "NVIDIA_L4": "nvidia-l4",
    "NVIDIA_TESLA_A100": "nvidia-tesla-a100",
    "NVIDIA_A100_80GB": "nvidia-a100-80gb",
    "NVIDIA_H100_80GB": "nvidia-h100-80gb",
    "NVIDIA_H100_MEGA_80GB": "nvidia-h100-mega-80gb",
    "NVIDIA_H200_141GB": "nvidia-h200-141gb",
    "NVIDIA_B200": "nvidia-b200",
    "NVIDIA_RTX_PRO_6000": "nvidia-rtx-pro-6000",
}
_V5E_CHIPS = {"ct5lp-hightpu-1t": 1, "ct5lp-hightpu-4t": 4, "ct5lp-hightpu-8t": 8}


def kubernetes_parameters(
    machine: Machine, *, selects_nodes: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the pipeline parameters that place the training on such a machine, and notices.

    Args:
        machine: An entry of the table.
        selects_nodes: Whether the user gives a node selector; otherwise a notice suggests one.

    Raises:
        InvalidArgumentError: for a TPU slice with several hosts: the training runs in one pod.
    """
    if machine.kind == "tpu":
        return _tpu_parameters(machine)
    shape = vcpus_and_memory(machine.machine_type)
    if shape is None:
        raise InvalidArgumentError(
            f"the CPUs and memory of {machine} are not known, so no pod can request them",
            remedy="use a machine in the table, or --target vertex",
        )
    vcpus, memory = shape
    parameters: dict[str, Any] = {
        "train_cpu": f"{max(1, int(vcpus * _ALLOCATABLE_SHARE))}",
        "train_memory": f"{max(1, int(memory * _ALLOCATABLE_SHARE))}G",
    }
    if machine.kind == "cpu":
        return parameters, ()
    parameters.update(
        train_accelerator_type=GPU_RESOURCE,
        train_accelerator_count=str(machine.accelerator_count),
        train_tolerations=_toleration(GPU_RESOURCE),
    )
    if selects_nodes:
        return parameters, ()
    label = json.dumps({_GPU_LABEL: _GPU_NAMES[machine.accelerator_type]})
    return parameters, (
        f"the training may run on any GPU of the cluster; on GKE, select {machine} with --input "
        f"'train_node_selector={label}'",
    )


def _tpu_parameters(machine: Machine) -> tuple[dict[str, Any], tuple[str, ...]]:
    notices: tuple[str, ...] = ()
    if machine.tpu_topology:
        chips = _V5E_CHIPS[machine.machine_type]
        slice_chips = math.prod(map(int, machine.tpu_topology.split("x")))
        kind, topology, hosts = "tpu-v5-lite-podslice", machine.tpu_topology, slice_chips // chips
    else:
        # A chip has two cores; a host of TPU v2 or v3 has four chips.
        chips, topology, hosts = 4, "2x2", machine.accelerator_count // 8
        kind = "tpu-v3-device"
        if machine.accelerator_type == "TPU_V2":
            kind = "tpu-v5-lite-podslice"
            notices = (
                f"{machine} is not available on GKE: the training requests 4 chips of TPU v5e instead",
            )
    if hosts > 1:
        raise InvalidArgumentError(
            f"{machine} is a slice of {hosts} hosts, but on Kubeflow the training runs in one pod",
            remedy="use a slice of one host, e.g. ct5lp-hightpu-8t with topology 2x4, or --target vertex",
        )
    return {
        "train_accelerator_type": TPU_RESOURCE,
        "train_accelerator_count": str(chips),
        "train_node_selector": {_TPU_LABEL: kind, _TOPOLOGY_LABEL: topology},
        "train_tolerations": _toleration(TPU_RESOURCE),
    }, notices


def _toleration(resource: str) -> list[dict[str, str]]:
    return [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
