"""Deploys a model to the target that the arguments name."""

from dataclasses import asdict
from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_result
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, LOCAL_TARGET, VERTEX_TARGET
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment


def deploy(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Deploys a model and waits until it answers.

    Deploying the same model again changes nothing. If the new model does not answer, the previous model
    serves again and the step fails.

    Args:
        model_folder: The model that the export step published.
        arguments: The target and its settings.

    Raises:
        PipelineError: as documented in the target's module.
    """
    # Only the chosen target's libraries are loaded.
    if arguments.deploy_target == LOCAL_TARGET:
        from imgpipe.components.deploy.local import deploy_locally

        deployment = deploy_locally(model_folder, arguments)
    elif arguments.deploy_target == KSERVE_TARGET:
        from imgpipe.components.deploy.kserve import deploy_to_kserve

        deployment = deploy_to_kserve(model_folder, arguments)
    elif arguments.deploy_target == VERTEX_TARGET:
        from imgpipe.components.deploy.vertex import deploy_to_vertex

        deployment = deploy_to_vertex(model_folder, arguments)
    else:
        raise InvalidArgumentError(
            "there is no deployment with deploy_target=none",
            remedy="set deploy_target to local, kserve or vertex",
        )
    log_result("deploy", _summary(deployment, arguments), **asdict(deployment))
    return deployment


def _summary(deployment: Deployment, arguments: DeployArguments) -> str:
    model = f"{deployment.location}, version {deployment.version}"
    if arguments.deploy_target == LOCAL_TARGET and not arguments.serving_url:
        # Whether a server has loaded it was not checked.
        return f"{'deployed to' if deployment.changed else 'unchanged, already deployed:'} {model}"
    if not deployment.verified:
        return f"not verified: {model}, with {deployment.traffic_percent}% of the traffic"
    state = "serves at" if deployment.changed else "unchanged, already serves at"
    return f"{state} {model}, with {deployment.traffic_percent}% of the traffic"
