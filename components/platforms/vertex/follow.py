"""Follows a job on Vertex AI until it ends."""

from collections.abc import Callable
from typing import Any

from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.polling import FIRST_PAUSE_SECONDS, on_termination, poll
from imgpipe.components.platforms.vertex.jobs import cancel_job, get_job, has_ended, state_of


def follow_job(
    new_client: Callable[[], Any],
    name: str,
    *,
    step: str,
    on_response: Callable[[Any], None] = lambda _: None,
    first_pause: float = FIRST_PAUSE_SECONDS,
) -> Any:
    """Returns the job when it has ended, however it ended.

    Logs each new state. Cancels the job if the step is terminated (SIGTERM, Ctrl-C).

    Args:
        new_client: Makes a JobServiceClient; the job is cancelled with a client of its own, see
            ``on_termination``.
        name: Resource name of the job.
        step: For the log.
        on_response: Called with the job after every request.
        first_pause: Seconds between the first two requests.

    Raises:
        InterruptedRunError: if Vertex AI does not respond for an hour; the job is left running.
    """
    client = new_client()
    last_state = ""

    def log_state(job: Any) -> None:
        nonlocal last_state
        state = state_of(job)
        if state != last_state:
            log_event("job_state", f"{step}: {name} is {state}", step=step, job=name, state=state)
        last_state = state
        on_response(job)

    def cancel() -> None:
        log_event("job_cancelled", f"{step}: terminated, cancelling {name}", step=step, job=name)
        cancel_job(new_client(), name)

    with on_termination(cancel):
        return poll(lambda: get_job(client, name), has_ended, on_response=log_state, first_pause=first_pause)
