"""The arguments of a training on machines of Vertex AI's own."""

import json
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml

STRATEGIES = ("standard", "spot", "flex-start")


@dataclass(frozen=True)
class CustomJobArguments:
    """Where and on what the training runs."""

    train_machine_type: str = argument(
        "n1-standard-8",
        "Machine for the training, e.g. n1-standard-8, g2-standard-8 (one L4 GPU), cloud-tpu, "
        "ct5lp-hightpu-4t. `imgpipe check` knows which go with which accelerators.",
    )
    train_accelerator_type: str = argument(
        "",
        "Accelerator of each machine as Vertex AI calls it, e.g. NVIDIA_TESLA_T4, NVIDIA_L4, TPU_V3. "
        "Empty = none; also for TPU v5e, whose machine type says it.",
    )
    train_accelerator_count: int = argument(0, "GPUs, or TPU cores (v2, v3), of each machine.", minimum=0)
    train_tpu_topology: str = argument(
        "", "Chips of a TPU v5e slice, e.g. 2x4, for ct5lp machines. Empty for all others."
    )
    train_replicas: int = argument(
        1,
        "Machines that train together, all alike: the first is the chief. A TPU job has one.",
        minimum=1,
    )
    train_image: str = argument(
        "",
        "Image of the training; it must hold imgpipe, with the TensorFlow build for the accelerator. "
        "Empty = ours for CPU, GPU or TPU.",
    )
    train_boot_disk_gb: int = argument(
        0, "Size of each machine's boot disk in GB. 0 = Vertex AI's own, 100.", minimum=0, maximum=64_000
    )
    train_strategy: str = argument(
        "standard",
        "How machines are found: standard; spot (cheaper, may be taken away: the training goes on from its "
        "checkpoints on another one); flex-start (waits in a queue for GPUs).",
        choices=STRATEGIES,
    )
    train_timeout_seconds: int = argument(
        0, "The training is stopped after this many seconds. 0 = Vertex AI's own, seven days.", minimum=0
    )
    train_wait_seconds: int = argument(
        0, "How long flex-start waits for machines. 0 = Vertex AI's own, one day.", minimum=0
    )
    train_restarts: int = argument(
        2,
        "How often the training is started again when its machines were taken away or not to be had. "
        "A mistake in data or arguments is never repeated.",
        minimum=0,
        maximum=10,
    )
    train_worker_pools: str = argument(
        "",
        "The worker pools as JSON, a list of Vertex AI's WorkerPoolSpec without containerSpec, in place of "
        "machine, accelerator, topology, replicas and disk. Empty = from those.",
    )
    service_account: str = argument("", "Account as which the training runs. Empty = the pipeline run's own.")
    network: str = argument(
        "", "VPC network of the training, projects/NUMBER/global/networks/NAME. Empty = none."
    )
    encryption_key: str = argument(
        "",
        "Cloud KMS key of the training job, projects/P/locations/R/keyRings/K/cryptoKeys/N. "
        "Empty = Google's own keys.",
    )
    labels: str = argument("{}", "Labels of the training job as a JSON object of texts.")
    vertex_endpoint: str = shared_arguments.vertex_endpoint()

    def __post_init__(self) -> None:
        """Checks every value; which machines exist is Vertex AI's to say.

        Raises:
            InvalidArgumentError: naming the arguments that are wrong or do not go together.
        """
        check_fields(self)
        if bool(self.train_accelerator_type) != bool(self.train_accelerator_count):
            raise InvalidArgumentError(
                f"train_accelerator_type={self.train_accelerator_type!r} and train_accelerator_count="
                f"{self.train_accelerator_count}: one of the two is missing",
                remedy="give both, or neither",
            )
        self.job_labels()
        self.worker_pools()

    def job_labels(self) -> dict[str, str]:
        """Returns the labels.

        Raises:
            InvalidArgumentError: if they are no JSON object of texts.
        """
        reader = FieldsReader(parse_yaml(self.labels or "{}", where="labels"), "labels", where="")
        return {name: reader.text(name) for name in reader.names()}

    def worker_pools(self) -> list[dict[str, Any]]:
        """Returns the worker pools in the JSON form of Vertex AI's REST interface, without containers.

        Raises:
            InvalidArgumentError: if ``train_worker_pools`` is no JSON list of objects.
        """
        if self.train_worker_pools:
            try:
                pools = json.loads(self.train_worker_pools)
            except ValueError as error:
                raise InvalidArgumentError(
                    f"train_worker_pools is not JSON: {error}", remedy="give a JSON list of worker pools"
                ) from None
            if not isinstance(pools, list) or not pools or not all(isinstance(pool, dict) for pool in pools):
                raise InvalidArgumentError(
                    "train_worker_pools is not a JSON list of worker pools",
                    remedy='write [{"machineSpec": {"machineType": "n1-standard-8"}, "replicaCount": 1}]',
                )
            return pools
        machine: dict[str, Any] = {"machineType": self.train_machine_type}
        if self.train_accelerator_type:
            machine["acceleratorType"] = self.train_accelerator_type
            machine["acceleratorCount"] = self.train_accelerator_count
        if self.train_tpu_topology:
            machine["tpuTopology"] = self.train_tpu_topology
        pool: dict[str, Any] = {"machineSpec": machine}
        if self.train_boot_disk_gb:
            pool["diskSpec"] = {"bootDiskSizeGb": self.train_boot_disk_gb}
        chief = {**pool, "replicaCount": 1}
        if self.train_replicas == 1:
            return [chief]
        return [chief, {**pool, "replicaCount": self.train_replicas - 1}]


@dataclass(frozen=True)
class RunArguments:
    """What Vertex AI fills in for the run, and the compiler for the release; no inputs of the pipeline."""

    project: str = argument("", "Project of the run.")
    region: str = argument("", "Region of the run.")
    pipeline_run: str = argument("", "Resource name of the pipeline's run.")
    images: str = argument("{}", "Our training images by kind (cpu, gpu, tpu) as a JSON object.")

    def __post_init__(self) -> None:
        check_fields(self)

    def image_for(self, machine: dict[str, Any]) -> str:
        """Returns our training image for a MachineSpec."""
        accelerator = str(machine.get("acceleratorType", ""))
        kind = "gpu" if accelerator.startswith("NVIDIA") or _has_gpus(machine) else "cpu"
        if accelerator.startswith("TPU") or machine.get("tpuTopology"):
            kind = "tpu"
        image: str = json.loads(self.images)[kind]
        return image


def _has_gpus(machine: dict[str, Any]) -> bool:
    """Tells whether GPUs are built into a machine type: its name then needs no accelerator type."""
    return str(machine.get("machineType", "")).startswith(("a2-", "a3-", "a4-", "g2-"))
