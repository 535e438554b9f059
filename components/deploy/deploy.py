"""Deploys a model to the target that the arguments name."""

from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_result
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, LOCAL_TARGET, VERTEX_TARGET
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment


def deploy(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Deploys a model and waits until it answers.

    Deploying what is deployed already changes nothing. If the new model does not come to answer, what
    served before serves again, and the step fails.

    Args:
        model_folder: What the export step published.
        arguments: The target and its settings.

    Raises:
        PipelineError: what the target's module says.
    """
    # Each target's libraries are loaded only where it is meant.
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
            "deploy_target=none: there is nowhere to deploy to", remedy="give local, kserve or vertex"
        )
    log_result("deploy", _said(deployment, arguments), **deployment.to_json())
    return deployment


def _said(deployment: Deployment, arguments: DeployArguments) -> str:
    place = f"{deployment.location} (version {deployment.version}"
    if arguments.deploy_target == LOCAL_TARGET and not arguments.serving_url:
        # Nobody was asked whether it serves.
        how = "lies ready to be served in" if deployment.changed else "lay there already, nothing changed:"
        return f"{how} {place})"
    how = "is served" if deployment.changed else "was served already, nothing changed:"
    return f"{how} {place}, {deployment.traffic_percent} % of the traffic)"
