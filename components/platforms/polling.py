"""The polling loop and the retries that all platforms share."""

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

from imgpipe.components.common.errors import InterruptedRunError, InvalidResponseError

Response = TypeVar("Response")

# Short at first, for jobs that are rejected immediately; a job of hours is polled every 30 seconds.
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
_PAUSE_GROWTH = 1.5
# A job keeps running while its service cannot be reached.
SILENCE_LIMIT_SECONDS = 3600.0
# A restart of an API server takes about a minute.
RETRY_SECONDS = 120.0
_RETRY_PAUSE_SECONDS = 1.0
_MAX_RETRY_PAUSE_SECONDS = 15.0
_logger = logging.getLogger("imgpipe")


def poll(
    request: Callable[[], Response],
    has_ended: Callable[[Response], bool],
    *,
    on_response: Callable[[Response], None] | None = None,
    first_pause: float | None = None,
    max_pause: float | None = None,
    silence_limit: float | None = None,
    timeout: float = math.inf,
) -> Response:
    """Repeats a request, with growing pauses, until its response says that the job has ended.

    Args:
        request: Returns the job. ``InterruptedRunError`` and ``InvalidResponseError`` mean that the service
            did not respond; every other error ends the loop.
        has_ended: Whether a response is the last one.
        on_response: Called with every response, the last one included; an error that it raises ends the loop.
        first_pause: Seconds between the first two requests; None = ``FIRST_PAUSE_SECONDS``.
        max_pause: Limit of the seconds between two requests; None = ``MAX_PAUSE_SECONDS``.
        silence_limit: Seconds without a response after which the loop gives up; None =
            ``SILENCE_LIMIT_SECONDS``.
        timeout: Seconds after which the loop gives up.

    Returns:
        The last response.

    Raises:
        InterruptedRunError, InvalidResponseError: if the service did not respond for ``silence_limit``
            seconds. The job is left running.
        TimeoutError: if the job has not ended within ``timeout`` seconds.
    """
    pause = FIRST_PAUSE_SECONDS if first_pause is None else first_pause
    max_pause = MAX_PAUSE_SECONDS if max_pause is None else max_pause
    silence_limit = SILENCE_LIMIT_SECONDS if silence_limit is None else silence_limit
    last_response = time.monotonic()
    deadline = last_response + timeout
    while True:
        try:
            response = request()
        except (InterruptedRunError, InvalidResponseError) as error:
            remaining = silence_limit - (time.monotonic() - last_response)
            if remaining < 0:
                raise
            wait = min(max(pause, getattr(error, "retry_after", 0.0)), max(pause, remaining))
        else:
            wait = pause
            last_response = time.monotonic()
            if on_response is not None:
                on_response(response)
            if has_ended(response):
                return response
        if time.monotonic() >= deadline:
            raise TimeoutError
        time.sleep(min(wait, deadline - time.monotonic()))
        pause = min(max_pause, pause * _PAUSE_GROWTH)


def retry(request: Callable[[], Response], *, seconds: float | None = None) -> Response:
    """Repeats a request while it raises ``InterruptedRunError``, with growing pauses.

    Pauses for as long as the service says, if it says so. The request must be safe to repeat: see
    ``create_once`` for one that creates something.

    Args:
        request: The request.
        seconds: Time after which the last error is raised; None = ``RETRY_SECONDS``.
    """
    deadline = time.monotonic() + (RETRY_SECONDS if seconds is None else seconds)
    pause = _RETRY_PAUSE_SECONDS
    while True:
        try:
            return request()
        except InterruptedRunError as error:
            wait = max(pause, error.retry_after)
            if time.monotonic() + wait > deadline:
                raise
            _logger.warning("%s; trying again in %.0f s", error.problem, wait)
        time.sleep(wait)
        pause = min(_MAX_RETRY_PAUSE_SECONDS, pause * 2)
