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

for _name in __all__:
    # The name to import it by, as tracebacks show it.
    globals()[_name].__module__ = __name__
