"""The arguments that place the pods of a run on Kubeflow."""

from dataclasses import Field
from typing import Any

from imgpipe.components.common.arguments import argument, named_field, same_argument
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.platforms.kubernetes.storage_secret import STORAGE_KEY_FOLDER


def pod_fields(train_image: str = "") -> "dict[str, Field[Any]]":
    """Returns the arguments by name; ``train_image`` is the default image of the training."""
    declared = {
        "data_version": same_argument(DataVersionArguments, "data_version"),
        "train_image": argument(
            train_image,
            "Image of the train step. It must contain imgpipe and the TensorFlow build for the accelerator: "
            "imgpipe-train-cpu, imgpipe-train-gpu or imgpipe-train-tpu.",
        ),
        "train_cpu": argument(
            "4", "Processors that the train step gets, as a Kubernetes quantity, e.g. 4 or 500m."
        ),
        "train_memory": argument(
            "8G", "Memory that the train step gets, as a Kubernetes quantity, e.g. 16G."
        ),
        "train_accelerator_type": argument(
            "", "Resource name of the accelerator: nvidia.com/gpu or google.com/tpu. Empty = none."
        ),
        "train_accelerator_count": argument("0", "Number of GPUs or TPU chips of the train step."),
        "train_node_selector": argument(
            {},
            "Labels of the nodes that may run the train step, as a JSON object, e.g. "
            '{"cloud.google.com/gke-accelerator": "nvidia-l4"}. {} = any node.',
        ),
        "train_tolerations": argument(
            [],
            "Tolerations of the train step, as a JSON list, e.g. "
            '[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]. [] = none.',
        ),
        "storage_secret": argument(
            "imgpipe-storage",
            "Secret with credentials for data in buckets, for pods without an identity of their own. For "
            "Cloud Storage, the entry key.json is the key file of a service account, the entry path is the "
            f"text {STORAGE_KEY_FOLDER}/key.json. For S3, the entries are AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and, for another server than AWS, AWS_ENDPOINT_URL. The secret need not "
            "exist.",
        ),
        "webhook_secret": argument(
            "imgpipe-webhook",
            "Secret whose entry url is an address that gets a POST request with JSON when the run ends: when "
            "a step reports an error, or after the last step. The secret need not exist.",
        ),
    }
    return {name: named_field(name, field) for name, field in declared.items()}
