"""The model that serves now, wherever it was deployed."""

from typing import Protocol

from imgpipe.components.common.errors import MissingInputError, OutputError
from imgpipe.components.common.model_folder import version_folders
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, VERTEX_TARGET
from imgpipe.components.deploy.deployment import DeploymentTarget
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import local_path


class ServingTarget(DeploymentTarget, Protocol):
    """What tells where a model serves; arguments of several steps say it."""

    @property
    def deploy_target(self) -> str:
        """local, kserve or vertex."""

    @property
    def deploy_dir(self) -> str:
        """Of a local model, the folder of its versions."""


def find_serving_model(place: ServingTarget) -> str:
    """Returns the folder of the model that answers most requests; of a local one, the newest version.

    Raises:
        InvalidArgumentError: if credentials would go over plain http.
        MissingInputError: if none serves yet.
        OutputError: if the deployment is not one that imgpipe made, or its model lies in no bucket.
        UnavailableError: if it does not answer, the service refuses, or its client is not installed.
        InterruptedRunError: if the service cannot be reached.
    """
    # Each target's libraries are loaded only where it is meant.
    if place.deploy_target == KSERVE_TARGET:
        from imgpipe.components.deploy.kserve import find_kserve_model

        return _readable(find_kserve_model(place))
    if place.deploy_target == VERTEX_TARGET:
        from imgpipe.components.deploy.vertex import find_vertex_model

        return _readable(find_vertex_model(place))
    # In a bucket models lie under their digests: the service alone knows which of them serves.
    versions = {} if is_cloud_path(place.deploy_dir) else version_folders(local_path(place.deploy_dir))
    if not versions:
        raise MissingInputError(
            f"there is no version of a model in {place.deploy_dir!r}",
            remedy="nothing is to be done if this is the first model",
        )
    return str(versions[max(versions)])


def _readable(location: str) -> str:
    if not is_cloud_path(location):
        raise OutputError(
            f"the model that serves lies in {location!r}, which is not read from here",
            remedy="copy it to a bucket, and name that as champion or pretrained_checkpoint_path",
        )
    return location
