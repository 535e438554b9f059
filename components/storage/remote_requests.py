"""What the requests of all remote stores share: time limits, retries, and errors of the connection.

Transient failures (an overloaded server, a broken connection, content with a wrong checksum) are retried with
growing pauses; permanent ones (no such object, no permission) are reported immediately.
"""

import contextvars
import errno
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from imgpipe.components.common.errors import InterruptedRunError, OutputError

Result = TypeVar("Result")

# How long a request that fails with a transient error is retried.
RETRY_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 16.0
_REQUEST_SECONDS = 60.0
# Errors of the local disk; others are errors of the connection.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)

_deadline = contextvars.ContextVar("deadline", default=math.inf)


class BadAnswerError(Exception):
    """An answer of success is not the store's, or has only a part of the content; a transient error."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limits the time of a request in this thread, and the time for which it is retried."""
    token = _deadline.set(seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def request_seconds() -> float:
    """Returns the time limit of one request in seconds."""
    return min(_REQUEST_SECONDS, _deadline.get())


def retry_seconds() -> float:
    """Returns for how many seconds a request is retried."""
    return min(RETRY_SECONDS, _deadline.get())


def retry(function: Callable[[], Result], is_transient: Callable[[BaseException], bool]) -> Result:
    """Returns the function's result; calls it again after transient errors.

    Raises:
        google.api_core.exceptions.RetryError: after ``retry_seconds``; its cause is the last error.
    """
    from google.api_core.retry import Retry

    result: Result = Retry(
        predicate=is_transient,
        initial=FIRST_PAUSE_SECONDS,
        maximum=_MAX_PAUSE_SECONDS,
        multiplier=2,
        timeout=retry_seconds(),
    )(function)()
    return result


def unreachable(
    service: str, location: object, verb: str, error: BaseException, *, setting: str = ""
) -> InterruptedRunError:
    """Returns the error for a service that failed with transient errors until the time was over.

    Args:
        service: Its name.
        location: What was read or written.
        verb: ``read`` or ``write``.
        error: The last error.
        setting: The setting with the service's address, if the user may have given one.
    """
    return InterruptedRunError(
        f"cannot {verb} {location!r}: requests to {service} failed for {retry_seconds():g} seconds; the last "
        f"error: {first_line(error)}",
        remedy="start it again: finished work is kept"
        + (f"; if the address is wrong, correct {setting}" if setting else ""),
    )


@contextmanager
def explain_full_disk(location: object, path: object) -> Iterator[None]:
    """Raises OutputError if the local copy of a remote object cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise OutputError(
            f"cannot write the copy of {location} to {str(path)!r}: {error.strerror}",
            remedy="free some space, or set TMPDIR to a writable folder with more",
        ) from None


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, shortened."""
    return (str(error) or type(error).__name__).split("\n")[0][:300]
