"""The polling loop, the retries and the clean-up that all platforms share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from imgpipe.components.common.errors import InterruptedRunError

Response = TypeVar("Response")

# Short at first, for jobs that are rejected immediately; a job of hours is polled every 30 seconds.
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
_PAUSE_GROWTH = 1.5
# A job keeps running while its service cannot be reached.
SILENCE_LIMIT_SECONDS = 3600.0
_RETRY_ATTEMPTS = 4
_RETRY_PAUSE_SECONDS = 1.0


def poll(
    request: Callable[[], Response],
    has_ended: Callable[[Response], bool],
    *,
    on_response: Callable[[Response], None] | None = None,
    first_pause: float = FIRST_PAUSE_SECONDS,
    max_pause: float = MAX_PAUSE_SECONDS,
    silence_limit: float = SILENCE_LIMIT_SECONDS,
) -> Response:
    """Repeats a request, with growing pauses, until its response says that the job has ended.

    Args:
        request: Returns the job. ``InterruptedRunError`` means that the service did not respond; every other
            error ends the loop.
        has_ended: Whether a response is the last one.
        on_response: Called with every response, the last one included; an error that it raises ends the loop.
        first_pause: Seconds between the first two requests.
        max_pause: Limit of the seconds between two requests.
        silence_limit: Seconds without a response after which the loop gives up.

    Returns:
        The last response.

    Raises:
        InterruptedRunError: if the service did not respond for ``silence_limit`` seconds. The job is left
            running.
    """
    pause, last_response = first_pause, time.monotonic()
    while True:
        try:
            response = request()
        except InterruptedRunError:
            if time.monotonic() - last_response > silence_limit:
                raise
        else:
            last_response = time.monotonic()
            if on_response is not None:
                on_response(response)
            if has_ended(response):
                return response
        time.sleep(pause)
        pause = min(max_pause, pause * _PAUSE_GROWTH)


def retry(request: Callable[[], Response], *, sleep: Callable[[float], None] = time.sleep) -> Response:
    """Repeats a request up to three times while it raises ``InterruptedRunError``, with doubling pauses.

    The request must be safe to repeat: a request that creates a job looks for the job first, because it may
    have been created although the response was lost.
    """
    for attempt in range(_RETRY_ATTEMPTS - 1):
        try:
            return request()
        except InterruptedRunError:
            sleep(_RETRY_PAUSE_SECONDS * 2**attempt)
    return request()


@contextmanager
def on_termination(clean_up: Callable[[], None]) -> Iterator[None]:
    """Calls ``clean_up`` if the block is ended by SIGTERM or Ctrl-C; an error of the block does not call it.

    ``clean_up`` needs a new connection: the signal may arrive while a connection is taken from a pool,
    whose lock then stays held.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException:
        clean_up()
        raise
