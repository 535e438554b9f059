"""The arguments of the deploy step."""

import re
from dataclasses import dataclass

from imgpipe.components.common.arguments import check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.shared_arguments import VERTEX_TARGET
from imgpipe.components.deploy.deployment import DeploymentTarget, deployment_argument

# Hosts of Artifact Registry; the last two are those of its predecessor.
_IN_ARTIFACT_REGISTRY = re.compile(r"[a-z0-9-]+-docker\.pkg\.dev|gcr\.io|[a-z]+\.gcr\.io")
_ACCELERATOR = re.compile(r"(NVIDIA|TPU)_[A-Z0-9_]+")


@dataclass(frozen=True)
class DeployArguments(DeploymentTarget):
    """Where a model is deployed, and how much traffic it gets."""

    canary_percent: int = deployment_argument(
        100,
        "Percentage of the traffic for the new model; the rest stays with the previous one. Deploy the "
        "same model again with 100 to give it all traffic. For vertex, and for kserve with Knative.",
        minimum=1,
        maximum=100,
    )
    deploy_timeout_seconds: int = deployment_argument(
        1800,
        "Maximum time to wait until the new model responds; after that, the deployment is rolled back.",
        minimum=1,
    )
    allow_unverified: bool = deployment_argument(
        False,
        "Whether a model stays deployed if no request from the step reaches it, e.g. because of a network "
        "policy, so that its answers cannot be checked. For kserve.",
    )
    undeploy_old: bool = deployment_argument(
        False,
        "Whether models of the endpoint without traffic are undeployed once the new model has all of it. "
        "For vertex.",
    )
    serving_url: str = deployment_argument(
        "",
        "Address of the server that watches deploy_dir, e.g. http://127.0.0.1:8501. If it does not report "
        "the new version as served, the version is removed. Empty = not checked. For local.",
    )
    serving_machine_type: str = deployment_argument(
        "n1-standard-2", "Machine type that serves the model. For vertex."
    )
    serving_accelerator_type: str = deployment_argument(
        "",
        "Accelerator of each machine that serves the model, e.g. NVIDIA_TESLA_T4 or NVIDIA_L4; "
        "serving_image must support it. Empty = none. For vertex.",
    )
    serving_accelerator_count: int = deployment_argument(
        0,
        "Accelerators of each machine that serves the model. For vertex.",
        minimum=0,
    )
    serving_min_replicas: int = deployment_argument(
        1, "Machines that serve the model at any time. For vertex.", minimum=1
    )
    serving_max_replicas: int = deployment_argument(
        0,
        "Machines that serve the model at most; more than serving_min_replicas are added under load. 0 = "
        "serving_min_replicas. For vertex.",
        minimum=0,
    )
    serving_spot: bool = deployment_argument(
        False,
        "Whether spare machines serve the model: cheaper, but taken away at any time. For vertex.",
    )
    shared_endpoint: bool = deployment_argument(
        False,
        "Whether a new endpoint has the region's shared address, with requests of at most 1.5 MB, instead of "
        "an address of its own, with 10 MB, an hour and gRPC. An existing one is not changed. For vertex.",
    )
    serving_image: str = deployment_argument(
        "",
        "TensorFlow Serving image, with at least the TensorFlow version that trained the model. Required "
        "for vertex, in Artifact Registry; for kserve, empty = the cluster's runtime for TensorFlow.",
    )
    serving_service_account: str = deployment_argument(
        "",
        "Service account of the model server. On kserve it must be allowed to read deploy_dir; on vertex the "
        "server reads a copy, and needs none. Empty = the default account. For kserve and vertex.",
    )

    def __post_init__(self) -> None:
        """Checks every value, then what the target requires.

        Raises:
            InvalidArgumentError: naming the wrong or missing arguments.
        """
        check_fields(self)
        self.check_target({VERTEX_TARGET: ("serving_image", "project", "region")})
        if self.deploy_target == VERTEX_TARGET:
            self._check_machines()
            if not _IN_ARTIFACT_REGISTRY.fullmatch(self.serving_image.partition("/")[0]):
                raise InvalidArgumentError(
                    f"serving_image={self.serving_image!r} is not in Artifact Registry, and Vertex AI serves "
                    "with no other image",
                    remedy="copy it there, and give REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME:TAG",
                )

    def resolved_max_replicas(self) -> int:
        """Returns the largest number of machines."""
        return self.serving_max_replicas or self.serving_min_replicas

    def _check_machines(self) -> None:
        if self.resolved_max_replicas() < self.serving_min_replicas:
            raise InvalidArgumentError(
                f"serving_max_replicas={self.serving_max_replicas} is less than "
                f"serving_min_replicas={self.serving_min_replicas}",
                remedy="raise serving_max_replicas, or set it to 0",
            )
        if bool(self.serving_accelerator_type) != bool(self.serving_accelerator_count):
            raise InvalidArgumentError(
                f"serving_accelerator_type={self.serving_accelerator_type!r} and serving_accelerator_count="
                f"{self.serving_accelerator_count}: one of them is missing",
                remedy="give both, or neither",
            )
        if self.serving_accelerator_type and not _ACCELERATOR.fullmatch(self.serving_accelerator_type):
            raise InvalidArgumentError(
                f"serving_accelerator_type={self.serving_accelerator_type!r} is not a name of Vertex AI",
                remedy="write it as Vertex AI does, e.g. NVIDIA_L4",
            )
