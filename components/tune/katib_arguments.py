"""The arguments of a tuning on Kubeflow: where its trials run, and on what."""

import json
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.arguments import argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.kubernetes.quantity import check_quantity

LOCAL, KATIB = "local", "katib"


@dataclass(frozen=True)
class KatibArguments:
    """Who runs the trials, and what each trial of Katib's asks of the cluster."""

    tune_engine: str = argument(
        LOCAL,
        "Who runs the trials: local (the tune step's own pod, some at a time, sharing what the train_... "
        "arguments give it) or katib (an Experiment of Katib's, a pod a trial as the trial_... arguments "
        "say; it needs a job_dir in Cloud Storage).",
        choices=(LOCAL, KATIB),
    )
    trial_cpu: str = argument("4", "Processors of each of Katib's trials, as Kubernetes writes them.")
    trial_memory: str = argument("8G", "Memory of each of Katib's trials, as Kubernetes writes it, e.g. 16G.")
    trial_accelerator_type: str = argument(
        "", "Accelerator of each of Katib's trials: nvidia.com/gpu or google.com/tpu. Empty = none."
    )
    trial_accelerator_count: int = argument(0, "GPUs, or TPU chips, of each of Katib's trials.", minimum=0)
    trial_node_selector: str = argument(
        "{}", "Labels of the nodes for Katib's trials, as a JSON object of texts. {} = any node."
    )
    trial_tolerations: str = argument(
        "[]", "Taints that Katib's trials put up with, as a JSON list of Kubernetes' tolerations. [] = none."
    )
    trial_service_account: str = argument(
        "", "Service account of Kubernetes for Katib's trials. Empty = the namespace's default."
    )
    katib_namespace: str = argument("", "Namespace of Katib's Experiment. Empty = the step's own.")

    def __post_init__(self) -> None:
        """Checks every value; what the cluster has is the cluster's to say.

        Raises:
            InvalidArgumentError: naming the argument that is wrong.
        """
        check_fields(self)
        if bool(self.trial_accelerator_type) != bool(self.trial_accelerator_count):
            raise InvalidArgumentError(
                f"trial_accelerator_type={self.trial_accelerator_type!r} and trial_accelerator_count="
                f"{self.trial_accelerator_count}: one of the two is missing",
                remedy="give both, or neither",
            )
        check_quantity("trial_cpu", self.trial_cpu)
        check_quantity("trial_memory", self.trial_memory)
        self.node_selector()
        self.tolerations()

    def node_selector(self) -> dict[str, str]:
        """Returns the labels of the nodes.

        Raises:
            InvalidArgumentError: if they are no JSON object of texts.
        """
        found = _parsed("trial_node_selector", self.trial_node_selector or "{}")
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise InvalidArgumentError(
                f"trial_node_selector={self.trial_node_selector}: no JSON object of texts",
                remedy='write {"cloud.google.com/gke-accelerator": "nvidia-l4"}',
            )
        return found

    def tolerations(self) -> list[dict[str, Any]]:
        """Returns the tolerations.

        Raises:
            InvalidArgumentError: if they are no JSON list of objects.
        """
        found = _parsed("trial_tolerations", self.trial_tolerations or "[]")
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise InvalidArgumentError(
                f"trial_tolerations={self.trial_tolerations}: no JSON list of objects",
                remedy='write [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]',
            )
        return found


@dataclass(frozen=True)
class TrialPodArguments:
    """What the pipeline fills in for Katib's trials; no inputs of its own."""

    trial_image: str = argument("", "Image of Katib's trials: that of the train step.")
    trial_storage_secret: str = argument("", "Secret with a key for Cloud Storage, as the steps have it.")

    def __post_init__(self) -> None:
        check_fields(self)


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{name}={text}: no JSON: {error}", remedy="write JSON") from None
