"""Builds the specification of a pod that trains; the pods of the pipeline's steps have the same mounts."""

from collections.abc import Mapping, Sequence
from typing import Any

from imgpipe.components.platforms.kubernetes.storage_secret import (
    STORAGE_KEY_ENTRY,
    STORAGE_KEY_FOLDER,
    STORAGE_KEY_VARIABLE,
)

# TensorFlow's data threads and NCCL use shared memory; by default /dev/shm has 64 MB.
SHARED_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - where Linux has it
SHARED_MEMORY_LIMIT = "8Gi"
# Of our images. On the pod, so that Katib's collector runs as the same user: it creates a file to which the
# trial writes.
_USER = 65534


def pod_spec(
    container_name: str,
    image: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cpu: str,
    memory: str,
    accelerator_type: str,
    accelerator_count: int,
    node_selector: Mapping[str, str],
    tolerations: Sequence[Mapping[str, Any]],
    service_account: str,
    storage_secret: str,
) -> dict[str, Any]:
    """Returns the PodSpec of a training run in one container.

    Args:
        container_name: Name of the container.
        image: Its image.
        command: Its command.
        environment: Its environment variables.
        cpu: Processors.
        memory: Memory.
        accelerator_type: Resource name of the accelerator; empty = none.
        accelerator_count: Number of GPUs or TPU chips.
        node_selector: Labels of the nodes that may run the pod.
        tolerations: Tolerations of taints.
        service_account: Empty = the namespace's default.
        storage_secret: Secret with credentials for data in object stores; it need not exist. Empty = none.
    """
    # A namespace with a quota on limits admits no pod without them.
    amounts = {"cpu": cpu, "memory": memory}
    resources: dict[str, Any] = {"requests": amounts, "limits": dict(amounts)}
    if accelerator_type:
        resources["limits"][accelerator_type] = str(accelerator_count)
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in environment.items()]
    mounts: list[dict[str, Any]] = [{"name": "shared-memory", "mountPath": SHARED_MEMORY_FOLDER}]
    volumes: list[dict[str, Any]] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY_LIMIT}}
    ]
    if storage_secret:
        volumes.append({"name": "storage", "secret": {"secretName": storage_secret, "optional": True}})
        mounts.append({"name": "storage", "mountPath": STORAGE_KEY_FOLDER, "readOnly": True})
        reference = {"name": storage_secret, "key": STORAGE_KEY_ENTRY, "optional": True}
        variables.append({"name": STORAGE_KEY_VARIABLE, "valueFrom": {"secretKeyRef": reference}})
    container = {
        "name": container_name,
        "image": image,
        "command": list(command),
        "env": variables,
        "resources": resources,
        "volumeMounts": mounts,
        # Required where a namespace enforces the Pod Security Standard "restricted".
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": volumes,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if node_selector:
        spec["nodeSelector"] = node_selector
    if tolerations:
        spec["tolerations"] = tolerations
    if service_account:
        spec["serviceAccountName"] = service_account
    return spec
