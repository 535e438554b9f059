"""Errors that state the problem, its location, the remedy, and whether a retry can help.

Every error that a user can cause or see is one of these classes. Each class has its own exit code
(from BSD's ``sysexits.h``, which conflict neither with Python's 1 and 2 nor with the shell's 126 and
above) and states whether a retry can help: an orchestrator that retries only
``EXIT_CODE_INTERRUPTED`` never repeats a permanent failure.
"""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from imgpipe.components.common.characters import escape_controls
from imgpipe.components.common.urls import redact_urls

EXIT_CODE_INTERRUPTED = 75

# Limits in characters: a quoted value may be a whole line of a damaged file.
_MAX_VALUE = 300
_MAX_TEXT = 6_000

_NO_SPACE = "free some space there, or use another folder"
_NO_RENAMING = (
    "the file system does not rename files: use a folder on a disk or, for a mounted bucket, its gs:// URI"
)
# What a user can do about an error of the operating system, whatever was done when it occurred.
_OS_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EROFS: "use a writable folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n 65536) and start it again; a mounted bucket also "
    "reports this when it refuses to rename a folder: use its gs:// URI",
    errno.ENFILE: "too many files are open on this machine: end other programs, and start it again",
    errno.EXDEV: _NO_RENAMING,
    errno.ENOTSUP: _NO_RENAMING,
    errno.ENOSYS: _NO_RENAMING,
    errno.EIO: "the disk, or the service behind a mounted bucket, failed: see the log of the system or the "
    "mount, then start it again",
}
_FORBIDDEN = "allow the user that runs this to read it"
_READ_REMEDIES = {
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EISDIR: "use a file, not a folder",
    errno.ENOTDIR: "correct the path: a part of it is a file, not a folder",
}


def _shorten(text: str) -> str:
    """Removes the middle of every very long quoted value or word, and the end of a very long text.

    Secrets in URLs are replaced first, and characters that would control a terminal.
    """
    text = escape_controls(redact_urls(text))
    for pattern in (r"'[^'\n]*'", r"\S+"):
        text = re.sub(pattern, _remove_middle, text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... and more"


def _remove_middle(match: "re.Match[str]") -> str:
    value = match.group()
    half = _MAX_VALUE // 2
    return value if len(value) <= _MAX_VALUE else f"{value[:half]} ... {value[-half:]}"


def os_error_remedy(error: OSError, otherwise: str = "") -> str:
    """Returns the remedy for an error of the operating system, or ``otherwise`` for other errors."""
    return _OS_REMEDIES.get(error.errno or 0, otherwise)


class PipelineError(Exception):
    """A failure with an explanation for the user.

    Args:
        problem: What is wrong, including the given value.
        where: The file, row, record or argument; may be empty if ``problem`` names it.
        remedy: What the user can do about it.

    Attributes:
        step: The step of a run that failed; empty elsewhere.
        log: The file with the run's log; empty elsewhere.
    """

    exit_code = 70
    retry_can_help = False
    step = log = ""

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        problem, where, remedy = (_shorten(text) for text in (problem, where, remedy))
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.problem]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.remedy:
            lines.append(f"what to do: {self.remedy}")
        return "\n".join(lines)


class InvalidArgumentError(PipelineError):
    """An argument, or a combination of arguments, is not allowed. EX_USAGE."""

    exit_code = 64


class InvalidDataError(PipelineError):
    """The content of a data file is wrong: a row, a record, an image, a label. EX_DATAERR."""

    exit_code = 65


class MissingInputError(PipelineError):
    """A given file, folder or pattern does not exist or cannot be read. EX_NOINPUT."""

    exit_code = 66


class UnavailableError(PipelineError):
    """A resource other than the data is not available, e.g. pretrained weights. EX_UNAVAILABLE.

    Args:
        status: The HTTP status with which a service refused the request; 0 if none did.
    """

    exit_code = 69

    def __init__(self, problem: str, *, where: str = "", remedy: str = "", status: int = 0) -> None:
        super().__init__(problem, where=where, remedy=remedy)
        self.status = status


class InvalidResponseError(UnavailableError):
    """The response of a server is not one of the service that was called, e.g. an HTML page with status 200.

    It does not say whether the request was executed.
    """


class InternalError(PipelineError):
    """A bug in imgpipe. EX_SOFTWARE."""

    exit_code = 70


class OutputError(PipelineError):
    """The output cannot be written, or its location contains other files. EX_CANTCREAT."""

    exit_code = 73


class InterruptedRunError(PipelineError):
    """The run received SIGTERM or SIGINT, or lost access to a service: start it again. EX_TEMPFAIL.

    Args:
        retry_after: Seconds after which the service accepts requests again; 0 if it did not say.
    """

    exit_code = EXIT_CODE_INTERRUPTED
    retry_can_help = True

    def __init__(self, problem: str, *, where: str = "", remedy: str = "", retry_after: float = 0.0) -> None:
        super().__init__(problem, where=where, remedy=remedy)
        self.retry_after = retry_after


class CheckFailedError(PipelineError):
    """An output failed its check, e.g. a served model's predictions differ. EX_PROTOCOL."""

    exit_code = 76


# Ordered by exit code, for the documentation.
ERROR_CLASSES: tuple[type[PipelineError], ...] = (
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    UnavailableError,
    InternalError,
    OutputError,
    InterruptedRunError,
    CheckFailedError,
)


def error_class_of(exit_code: int, otherwise: type[PipelineError]) -> type[PipelineError]:
    """Returns the class of the error with which another process has ended."""
    return next((known for known in ERROR_CLASSES if known.exit_code == exit_code), otherwise)


def reported_error(event: Mapping[str, Any]) -> PipelineError:
    """Returns the error that another process has reported as its event ``step_failed``."""
    error_class = error_class_of(event["exit_code"], PipelineError)
    return error_class(event["problem"], where=event["where"], remedy=event["remedy"])


@contextmanager
def must_be_readable(what: str, *damage: type[Exception], remedy: str = "") -> Iterator[None]:
    """Raises a MissingInputError if the block cannot read a file.

    Args:
        what: The file, as the message names it.
        *damage: What the block raises for a damaged file, besides OSError.
        remedy: What to do; empty = what helps against the error of the operating system.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *damage)
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or error
        remedy = remedy or _READ_REMEDIES.get(getattr(error, "errno", None) or 0, "check the path")
        raise MissingInputError(f"cannot read {what}: {reason}", remedy=remedy) from None


@contextmanager
def must_be_writable(what: str, remedy: str = "use a writable folder") -> Iterator[None]:
    """Raises an OutputError for an error of the operating system in the block, e.g. a full disk.

    Args:
        what: The file or folder, as the message names it.
        remedy: What to do about an error without a remedy of its own.
    """
    try:
        yield
    except OSError as error:
        problem = f"cannot write {what}: {error.strerror or error}"
        raise OutputError(problem, remedy=os_error_remedy(error, remedy)) from None
