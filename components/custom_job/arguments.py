"""The arguments of a training run in a CustomJob."""

import json
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.platforms.vertex.client import VertexLocation
from imgpipe.components.platforms.vertex.job_requests import (
    STRATEGIES,
    machine_kind,
    machine_spec,
    worker_pool_spec,
)


@dataclass(frozen=True)
class CustomJobArguments:
    """The machines and settings of the job."""

    train_machine_type: str = argument(
        "n1-standard-8",
        "Machine type of the training, e.g. n1-standard-8, g2-standard-8 (1 L4 GPU), cloud-tpu, "
        "ct5lp-hightpu-4t. `imgpipe check` lists the accelerators of each.",
    )
    train_accelerator_type: str = argument(
        "",
        "Vertex AI's name for the accelerator of each machine, e.g. NVIDIA_TESLA_T4, NVIDIA_L4, TPU_V3. "
        "Empty = none; also empty for TPU v5e, which is part of the machine type.",
    )
    train_accelerator_count: int = argument(
        0, "Number of GPUs, or of TPU cores (v2, v3), of each machine.", minimum=0
    )
    train_tpu_topology: str = argument(
        "", "Topology of a TPU v5e slice, e.g. 2x4, for ct5lp machines. Empty for all others."
    )
    train_replicas: int = argument(
        1,
        "Number of identical machines that train together; the first is the chief. A TPU job has 1.",
        minimum=1,
    )
    train_image: str = argument(
        "",
        "Image of the training; it must contain imgpipe and a TensorFlow build for the accelerator. "
        "Empty = ours for CPU, GPU or TPU.",
    )
    train_boot_disk_gb: int = argument(
        0, "Size of each machine's boot disk in GB. 0 = Vertex AI's default, 100.", minimum=0, maximum=64_000
    )
    train_strategy: str = argument(
        "standard",
        "How Vertex AI provides machines: standard; spot (cheaper, may be preempted: the training resumes "
        "from its checkpoints on another machine); flex-start (waits in a queue for GPUs).",
        choices=STRATEGIES,
    )
    train_timeout_seconds: int = argument(
        0, "Time limit of the training in seconds. 0 = Vertex AI's default, seven days.", minimum=0
    )
    train_wait_seconds: int = argument(
        0, "How many seconds flex-start waits for machines. 0 = Vertex AI's default, one day.", minimum=0
    )
    train_restarts: int = argument(
        2,
        "How often the training is restarted if its machines were preempted or unavailable. Errors in data "
        "or arguments are never retried.",
        minimum=0,
        maximum=10,
    )
    train_worker_pools: str = argument(
        "",
        "Worker pools as a JSON list of Vertex AI's WorkerPoolSpec without containerSpec. Overrides machine, "
        "accelerator, topology, replicas and disk. Empty = built from those.",
    )
    service_account: str = argument("", "Service account of the training. Empty = the pipeline run's.")
    network: str = argument(
        "", "VPC network of the training, projects/NUMBER/global/networks/NAME. Empty = none."
    )
    encryption_key: str = argument(
        "",
        "Cloud KMS key of the training job, projects/P/locations/R/keyRings/K/cryptoKeys/N. "
        "Empty = Google's keys.",
    )
    labels: str = argument("{}", "Labels of the training job as a JSON object of strings.")
    vertex_endpoint: str = shared_arguments.VERTEX_ENDPOINT

    def __post_init__(self) -> None:
        """Checks every value; Vertex AI checks whether the machines exist.

        Raises:
            InvalidArgumentError: naming the arguments that are wrong or contradict each other.
        """
        check_fields(self)
        if bool(self.train_accelerator_type) != bool(self.train_accelerator_count):
            raise InvalidArgumentError(
                f"train_accelerator_type={self.train_accelerator_type!r} and train_accelerator_count="
                f"{self.train_accelerator_count}: one of them is missing",
                remedy="set both, or neither",
            )
        self.job_labels()
        self.worker_pools()

    def job_labels(self) -> dict[str, str]:
        """Returns the labels.

        Raises:
            InvalidArgumentError: if they are not a JSON object of strings.
        """
        reader = FieldsReader(parse_yaml(self.labels or "{}", where="labels"), "labels", where="")
        return {name: reader.text(name) for name in reader.fields}

    def worker_pools(self) -> list[dict[str, Any]]:
        """Returns the WorkerPoolSpecs in the JSON form of the REST API, without containers.

        Raises:
            InvalidArgumentError: if ``train_worker_pools`` is not a JSON list of objects.
        """
        if self.train_worker_pools:
            try:
                pools = json.loads(self.train_worker_pools)
            except ValueError as error:
                raise InvalidArgumentError(
                    f"train_worker_pools is not JSON: {error}", remedy="set it to a JSON list of worker pools"
                ) from None
            if not isinstance(pools, list) or not pools or not all(isinstance(pool, dict) for pool in pools):
                raise InvalidArgumentError(
                    "train_worker_pools is not a JSON list of worker pools",
                    remedy='write [{"machineSpec": {"machineType": "n1-standard-8"}, "replicaCount": 1}]',
                )
            return pools
        machine = machine_spec(
            self.train_machine_type,
            self.train_accelerator_type,
            self.train_accelerator_count,
            self.train_tpu_topology,
        )
        # The first pool has one replica, the chief.
        replicas = [1, self.train_replicas - 1] if self.train_replicas > 1 else [1]
        return [worker_pool_spec(machine, count, disk_gb=self.train_boot_disk_gb) for count in replicas]

    def location(self, run: "RunArguments") -> VertexLocation:
        """Returns where the job runs."""
        return VertexLocation(run.project, run.region, self.vertex_endpoint)

    def labels_and_key(self, run: "RunArguments") -> dict[str, Any]:
        """Returns the job's arguments of ``finish_request``.

        The label with the run's id adds the job's log lines to those of the pipeline run.
        """
        return {
            "labels": self.job_labels(),
            "encryption_key": self.encryption_key,
            "run_id": run.pipeline_run.rpartition("/")[2],
        }


@dataclass(frozen=True)
class RunArguments:
    """Set by Vertex AI for the run, and by the compiler for the release; not inputs of the pipeline."""

    project: str = argument("", "Project of the run.")
    region: str = argument("", "Region of the run.")
    pipeline_run: str = argument("", "Resource name of the pipeline's run.")
    images: str = argument("{}", "Our training images by kind (cpu, gpu, tpu) as a JSON object.")

    def __post_init__(self) -> None:
        check_fields(self)

    def image_for(self, machine: dict[str, Any]) -> str:
        """Returns our training image for a MachineSpec."""
        image: str = json.loads(self.images)[machine_kind(machine)]
        return image
