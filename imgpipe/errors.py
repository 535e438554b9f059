"""The errors that the public API raises. All are ``PipelineError``, which says what to do in ``remedy``."""

from imgpipe.components.common.errors import (
    CheckFailedError,
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)

__all__ = [
    "CheckFailedError",
    "InternalError",
    "InterruptedRunError",
    "InvalidArgumentError",
    "InvalidDataError",
    "MissingInputError",
    "OutputError",
    "PipelineError",
    "UnavailableError",
]
