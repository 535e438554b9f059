"""Errors that say what was wrong, where, what to do, and whether trying again can help.

Every error of the project that a user can cause or meet is one of these classes. Each class has
an exit code of its own (the values of BSD's ``sysexits.h``, so that they collide neither with
Python's 1 and 2 nor with the shell's 126 and above), and states whether a retry can help: an
orchestrator that retries only ``EXIT_CODE_INTERRUPTED`` never repeats a mistake.
"""

import re

EXIT_CODE_INTERRUPTED = 75


# What a person reads of a value that may be a whole line of a damaged file, and of an error.
_LONGEST_VALUE = 300
_LONGEST_TEXT = 6_000


def shortened(text: str) -> str:
    """Returns the text without the middle of every very long quoted value or word, and not endless itself."""
    for pattern in (r"'[^'\n]*'", r"\S+"):
        text = re.sub(pattern, _without_middle, text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ... and more"


def _without_middle(match: "re.Match[str]") -> str:
    value = match.group()
    half = _LONGEST_VALUE // 2
    return value if len(value) <= _LONGEST_VALUE else f"{value[:half]} ... {value[-half:]}"


class PipelineError(Exception):
    """A failure that is explained to the user.

    Args:
        problem: What is wrong, with the value that was given.
        where: The file, row, record or argument; may be empty when ``problem`` names it.
        remedy: What the user can do about it.
    """

    exit_code = 70
    retry_can_help = False

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        problem, where, remedy = (shortened(text) for text in (problem, where, remedy))
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
    """A file, folder or pattern that was named does not exist or cannot be read. EX_NOINPUT."""

    exit_code = 66


class UnavailableError(PipelineError):
    """Something outside the data is not to be had here, e.g. pretrained weights. EX_UNAVAILABLE."""

    exit_code = 69


class InternalError(PipelineError):
    """A mistake of ours. EX_SOFTWARE."""

    exit_code = 70


class OutputError(PipelineError):
    """The output cannot be written, or the place is taken by somebody else's files. EX_CANTCREAT."""

    exit_code = 73


class InterruptedRunError(PipelineError):
    """The run was told to stop (SIGTERM, SIGINT) or lost touch with storage: start it again. EX_TEMPFAIL."""

    exit_code = EXIT_CODE_INTERRUPTED
    retry_can_help = True


class CheckFailedError(PipelineError):
    """A product of the run failed its check, e.g. a model that answers otherwise when served. EX_PROTOCOL."""

    exit_code = 76


# In the order of their exit codes, for the documentation.
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
