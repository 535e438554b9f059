"""The champion: the model that currently serves, copied to this machine for the evaluation."""

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

    With ``champion=auto``, a warning says why there is none, except for a local folder without a model yet.

    Raises:
        MissingInputError: if the given champion does not exist.
        InterruptedRunError: if a service or bucket cannot be reached: without the comparison, a worse model
            could pass the gate.
    """
    if arguments.champion == NO_CHAMPION or (arguments.champion == AUTO and not arguments.deploy_dir):
        yield None
        return
    if arguments.champion != AUTO:
        with local_model(parse_location(arguments.champion)) as folder:
            log_event("champion_found", f"evaluate: the champion is {arguments.champion}")
            yield folder
        return
    # Only errors of finding the model become warnings, not errors of evaluating it.
    serving: Path | None = None
    with ExitStack() as stack:
        try:
            location = find_serving_model(arguments)
            serving = stack.enter_context(local_model(location))
            log_event("champion_found", f"evaluate: the champion is {location}, which currently serves")
        except (MissingInputError, OutputError, UnavailableError) as error:
            where = f" ({error.where})" if error.where else ""
            _warn(arguments, f"{error.problem}{where}")
        yield serving


def _warn(arguments: EvaluateArguments, problem: str) -> None:
    if arguments.deploy_target in (KSERVE_TARGET, VERTEX_TARGET):
        found = f"found no model on {arguments.deploy_target}: {problem}"
    elif not is_local(arguments.deploy_dir):
        # It contains models by digest; only the service knows which of them serves.
        found = f"found no model in {arguments.deploy_dir!r}"
    else:
        # No warning: the folder is empty before the first deployment.
        return
    log_event(
        "no_champion",
        f"evaluate: champion=auto {found}, so there is no comparison; to compare, set champion to the folder "
        "of the deployed model",
        severity="WARNING",
    )
