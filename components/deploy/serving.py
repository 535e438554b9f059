"""Finds the deployed model."""

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.common.model_folder import version_folders
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, VERTEX_TARGET
from imgpipe.components.deploy.deployment import DeploymentTarget
from imgpipe.components.storage import LocalLocation, Location, parse_location, split_volume_uri


def find_serving_model(target: DeploymentTarget) -> Location:
    """Returns the folder of the model that answers most requests; for local, the latest version.

    Raises:
        InvalidArgumentError: if credentials would go over plain http.
        MissingInputError: if no model serves yet.
        OutputError: if imgpipe did not create the deployment, or its model is not in a bucket.
        UnavailableError: if it does not serve, the service rejects the request, or its client is missing.
        InterruptedRunError: if the service cannot be reached.
    """
    # Only the chosen target's libraries are loaded.
    if target.deploy_target == KSERVE_TARGET:
        from imgpipe.components.deploy.kserve import find_kserve_model

        return _readable(find_kserve_model(target))
    if target.deploy_target == VERTEX_TARGET:
        from imgpipe.components.deploy.vertex import find_vertex_model

        return _readable(find_vertex_model(target))
    # In a bucket, models are stored by digest: only the service knows which of them serves.
    folder = parse_location(target.deploy_dir)
    versions = version_folders(folder.path) if isinstance(folder, LocalLocation) else {}
    if not versions:
        raise MissingInputError(
            f"there is no version of a model in {target.deploy_dir!r}",
            remedy="check deploy_dir and deploy_name; before the first deployment there is no model",
        )
    return LocalLocation(str(versions[max(versions)]))


def _readable(location: str) -> Location:
    try:
        # On a volume that is not mounted here, the error says how to mount it.
        readable = parse_location(location)
    except InvalidArgumentError:
        if location.startswith("pvc://"):
            raise
        readable = LocalLocation(location)
    if readable.is_local and not split_volume_uri(location):
        raise OutputError(
            f"the serving model is in {location!r}, not in a bucket",
            remedy="copy it to a bucket, and give that path as champion or pretrained_checkpoint_path",
        )
    return readable
