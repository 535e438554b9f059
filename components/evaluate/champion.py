"""The champion: the model that serves now, on this machine for as long as it is measured."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components.common.cloud_storage import is_cloud_path
from components.common.errors import MissingInputError, OutputError, UnavailableError
from components.common.log import log_event
from components.common.model_versions import local_model, version_folders
from components.common.shared_arguments import KSERVE_TARGET, VERTEX_TARGET
from components.common.storage import local_path
from components.deploy.serving import serving_location
from components.evaluate.arguments import AUTO, NO_CHAMPION, EvaluateArguments


@contextmanager
def champion_folder(arguments: EvaluateArguments) -> Iterator[Path | None]:
    """Yields the local folder of the model to compare with; None if there is none.

    With ``champion=auto`` a warning says why there is none, but for a local folder without a model yet.

    Raises:
        MissingInputError: if one is named and not there.
        InterruptedRunError: if a service or a bucket that is to be asked cannot be reached: without the
            comparison a worse model could pass the gate.
    """
    if arguments.champion == NO_CHAMPION or (arguments.champion == AUTO and not arguments.deploy_dir):
        yield None
        return
    if arguments.champion != AUTO:
        with local_model(arguments.champion) as folder:
            yield folder
        return
    if arguments.deploy_target not in (KSERVE_TARGET, VERTEX_TARGET):
        yield _newest_version(arguments.deploy_dir)
        return
    # Only what goes wrong in finding it is a warning, nothing of what is done with it.
    serving: Path | None = None
    with ExitStack() as stack:
        try:
            location = serving_location(arguments)
            serving = stack.enter_context(local_model(location))
            log_event("champion_found", f"evaluate: {location} serves now")
        except (MissingInputError, OutputError, UnavailableError) as error:
            where = f" ({error.where})" if error.where else ""
            _warn(f"champion=auto finds no model on {arguments.deploy_target}: {error.problem}{where}")
        yield serving


def _newest_version(deploy_dir: str) -> Path | None:
    if is_cloud_path(deploy_dir):
        # Models lie there under their digests: the service alone knows which of them serves.
        _warn(f"champion=auto finds no model in {deploy_dir!r}")
        return None
    versions = version_folders(local_path(deploy_dir))
    return versions[max(versions)] if versions else None


def _warn(problem: str) -> None:
    log_event(
        "no_champion",
        f"evaluate: {problem}: nothing is compared with; "
        "name the folder of the model that serves as champion",
        severity="WARNING",
    )
