"""The champion: the model that serves now, on this machine for as long as it is measured."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from imgpipe.components.common.errors import MissingInputError, OutputError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import local_model
from imgpipe.components.common.shared_arguments import KSERVE_TARGET, VERTEX_TARGET
from imgpipe.components.deploy.serving import find_serving_model
from imgpipe.components.evaluate.arguments import AUTO, NO_CHAMPION, EvaluateArguments
from imgpipe.components.storage import is_local, parse_location


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
        with local_model(parse_location(arguments.champion)) as folder:
            yield folder
        return
    # Only what goes wrong in finding it is a warning, nothing of what is done with it.
    serving: Path | None = None
    with ExitStack() as stack:
        try:
            location = find_serving_model(arguments)
            serving = stack.enter_context(local_model(location))
            log_event("champion_found", f"evaluate: {location} serves now")
        except (MissingInputError, OutputError, UnavailableError) as error:
            where = f" ({error.where})" if error.where else ""
            _warn(arguments, f"{error.problem}{where}")
        yield serving


def _warn(arguments: EvaluateArguments, problem: str) -> None:
    if arguments.deploy_target in (KSERVE_TARGET, VERTEX_TARGET):
        found = f"finds no model on {arguments.deploy_target}: {problem}"
    elif not is_local(arguments.deploy_dir):
        # Models lie there under their digests: the service alone knows which of them serves.
        found = f"finds no model in {arguments.deploy_dir!r}"
    else:
        # A folder that fills with the first deployment: there is nothing to name.
        return
    log_event(
        "no_champion",
        f"evaluate: champion=auto {found}: nothing is compared with; "
        "name the folder of the model that serves as champion",
        severity="WARNING",
    )
