"""Errors of steps, which ran in processes of their own, as exceptions of this one."""

from collections.abc import Iterator
from contextlib import contextmanager

from imgpipe.components.common.errors import ERROR_CLASSES
from imgpipe.errors import PipelineError
from imgpipe.pipelines.local_run import StepFailedError
from imgpipe.pipelines.local_step import StepError


@contextmanager
def raise_step_errors() -> Iterator[None]:
    """Raises a failed step's error as its own class, e.g. ``InvalidDataError``, with a note on the log."""
    try:
        yield
    except StepError as failed:
        classes = {error_class.exit_code: error_class for error_class in ERROR_CLASSES}
        error_class = classes.get(failed.exit_code, PipelineError)
        error = error_class(failed.problem, where=failed.where, remedy=failed.remedy)
        if isinstance(failed, StepFailedError):
            error.add_note(f"in step {failed.step}; log: {failed.log}")
        raise error from None
