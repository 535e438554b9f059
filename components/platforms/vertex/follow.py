"""Follows a job of Vertex AI to its end, and stops it when the step is told to stop."""

import time
from collections.abc import Callable
from typing import Any

from imgpipe.components.common.errors import InterruptedRunError
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.vertex.jobs import cancel_job, get_job, has_ended, state_of

# Short at first, for jobs that are refused at once; a job of hours needs no question a second.
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# The job goes on while the network is away; so long may it be.
_SECONDS_WITHOUT_AN_ANSWER = 3600.0


def follow_job(
    new_client: Callable[[], Any],
    name: str,
    *,
    step: str,
    pause: Callable[[float], None] = time.sleep,
    first_pause: float = _FIRST_PAUSE_SECONDS,
) -> Any:
    """Returns the job when it has ended, however it ended.

    Each new state is logged. If the step is told to stop (SIGTERM, Ctrl-C), the job is cancelled first.

    Args:
        new_client: Makes a JobServiceClient. The signal may come while a connection is taken from the pool of
            one, whose lock then stays held: another one cancels the job.
        name: Of the job.
        step: For the log.
        pause: Waits between questions.
        first_pause: Seconds before the second question.

    Raises:
        InterruptedRunError: if Vertex AI does not answer for an hour; the job is left running.
    """
    client = new_client()
    state, seconds, answered = "", first_pause, time.monotonic()
    try:
        while True:
            try:
                job = get_job(client, name)
                answered = time.monotonic()
            except InterruptedRunError:
                if time.monotonic() - answered > _SECONDS_WITHOUT_AN_ANSWER:
                    raise
                pause(seconds)
                continue
            if state_of(job) != state:
                state = state_of(job)
                log_event("job_state", f"{step}: {name} is {state}", step=step, job=name, state=state)
            if has_ended(job):
                return job
            pause(seconds)
            seconds = min(_LONGEST_PAUSE_SECONDS, seconds * 1.5)
    except Exception:
        raise
    except BaseException:
        # Told to stop: what is rented for nobody is given back.
        log_event("job_cancelled", f"{step}: told to stop, cancelling {name}", step=step, job=name)
        cancel_job(new_client(), name)
        raise
