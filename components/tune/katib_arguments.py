"""The arguments of a tuning run on Kubeflow: where the trials run, and their resources."""

import json
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.arguments import argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.kubernetes.pod_rules import (
    check_accelerator,
    check_namespace,
    check_node_selector,
    check_object_name,
    check_quantity,
    check_tolerations,
)

LOCAL, KATIB = "local", "katib"


@dataclass(frozen=True)
class KatibArguments:
    """Where the trials run, and the resources of each Katib trial."""

    tune_engine: str = argument(
        LOCAL,
        "Where the trials run: local (in the pod of the tune step, several at a time, with the resources of "
        "the train_... arguments) or katib (each in a pod of a Katib Experiment, with the resources of the "
        "trial_... arguments; requires a job_dir in a bucket).",
        choices=(LOCAL, KATIB),
    )
    trial_cpu: str = argument(
        "4", "Processors of each Katib trial, as a Kubernetes quantity, e.g. 4 or 500m."
    )
    trial_memory: str = argument("8G", "Memory of each Katib trial, as a Kubernetes quantity, e.g. 16G.")
    trial_accelerator_type: str = argument(
        "",
        "Accelerator of each Katib trial: nvidia.com/gpu or google.com/tpu. Empty = none.",
    )
    trial_accelerator_count: int = argument(0, "Number of GPUs or TPU chips of each Katib trial.", minimum=0)
    trial_node_selector: str = argument(
        "{}", "Labels of the nodes that may run Katib trials, as a JSON object. {} = any node."
    )
    trial_tolerations: str = argument("[]", "Tolerations of the Katib trials, as a JSON list. [] = none.")
    trial_service_account: str = argument(
        "", "Kubernetes service account of the Katib trials. Empty = the namespace's default."
    )
    katib_namespace: str = argument("", "Namespace of the Katib Experiment. Empty = the step's namespace.")

    def __post_init__(self) -> None:
        """Checks every value, without access to the cluster.

        Raises:
            InvalidArgumentError: naming the wrong argument.
        """
        check_fields(self)
        check_accelerator("trial", self.trial_accelerator_type, self.trial_accelerator_count)
        check_quantity("trial_cpu", self.trial_cpu)
        check_quantity("trial_memory", self.trial_memory)
        check_namespace("katib_namespace", self.katib_namespace)
        if self.trial_service_account:
            check_object_name("trial_service_account", self.trial_service_account, "ServiceAccount")
        self.node_selector()
        self.tolerations()

    def node_selector(self) -> dict[str, str]:
        """Returns the node selector.

        Raises:
            InvalidArgumentError: if it is not a JSON object of labels.
        """
        found: dict[str, str] = _parsed("trial_node_selector", self.trial_node_selector or "{}")
        check_node_selector("trial_node_selector", found)
        return found

    def tolerations(self) -> list[dict[str, Any]]:
        """Returns the tolerations.

        Raises:
            InvalidArgumentError: if Kubernetes would not accept them.
        """
        found: list[dict[str, Any]] = _parsed("trial_tolerations", self.trial_tolerations or "[]")
        check_tolerations("trial_tolerations", found)
        return found


@dataclass(frozen=True)
class TrialPodArguments:
    """Arguments of the Katib trials that the pipeline fills in; users do not see them."""

    trial_image: str = argument("", "Image of the Katib trials: the train step's.")
    trial_storage_secret: str = argument(
        "", "Secret with credentials for object stores, as for storage_secret."
    )

    def __post_init__(self) -> None:
        check_fields(self)


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"{name}={text} is not valid JSON: {error}", remedy="correct the JSON"
        ) from None
