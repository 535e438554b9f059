"""The arguments of the deploy step."""

from dataclasses import dataclass

from imgpipe.components.common.arguments import Group, argument, check_fields
from imgpipe.components.common.shared_arguments import VERTEX_TARGET
from imgpipe.components.deploy.deployment import DeploymentTarget


@dataclass(frozen=True)
class DeployArguments(DeploymentTarget):
    """Where a model is deployed, and how much traffic it gets."""

    canary_percent: int = argument(
        100,
        "Percentage of the traffic for the new model; the rest stays with the previous one. Deploy the "
        "same model again with 100 to give it all traffic. For vertex, and for kserve with Knative.",
        group=Group.DEPLOYMENT,
        minimum=1,
        maximum=100,
    )
    deploy_timeout_seconds: int = argument(
        1800,
        "Maximum time to wait until the new model responds; after that, the deployment is rolled back.",
        group=Group.DEPLOYMENT,
        minimum=1,
    )
    allow_unverified: bool = argument(
        False,
        "Whether a model stays deployed if no request from the step reaches it, e.g. because of a network "
        "policy, so that its answers cannot be checked. For kserve.",
        group=Group.DEPLOYMENT,
    )
    undeploy_old: bool = argument(
        False,
        "Whether models of the endpoint without traffic are undeployed once the new model has all of it. "
        "For vertex.",
        group=Group.DEPLOYMENT,
    )
    serving_url: str = argument(
        "",
        "Address of the server that watches deploy_dir, e.g. http://127.0.0.1:8501. If it does not report "
        "the new version as served, the version is removed. Empty = not checked. For local.",
        group=Group.DEPLOYMENT,
    )
    serving_machine_type: str = argument(
        "n1-standard-2", "Machine type that serves the model. For vertex.", group=Group.DEPLOYMENT
    )
    serving_image: str = argument(
        "",
        "TensorFlow Serving image, with at least the TensorFlow version that trained the model. Required "
        "for vertex; for kserve, empty = the cluster's runtime for TensorFlow.",
        group=Group.DEPLOYMENT,
    )
    serving_service_account: str = argument(
        "",
        "Service account of the model server; it must be allowed to read deploy_dir. Empty = the default "
        "account. For kserve and vertex.",
        group=Group.DEPLOYMENT,
    )

    def __post_init__(self) -> None:
        """Checks every value, then what the target requires.

        Raises:
            InvalidArgumentError: naming the wrong or missing arguments.
        """
        check_fields(self)
        self.check_target({VERTEX_TARGET: ("serving_image", "project", "region")})
