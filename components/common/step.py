"""Runs a step's function: arguments checked, errors explained, time logged, exit code set.

Both doors into a step go through here: the KFP component (``run_component``) and the command line
(``run_command``).
"""

import dataclasses
import importlib
import inspect
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from imgpipe.components.common.arguments import from_values
from imgpipe.components.common.errors import InternalError, InterruptedRunError, PipelineError
from imgpipe.components.common.log import log_event


def run_component(module_name: str, function_name: str, values: Mapping[str, Any]) -> Any:
    """Calls the function of a ``component.py`` with the flat values that KFP handed over.

    A parameter of the function that is annotated with an arguments dataclass is built from the
    values of its fields. The step's logic module (``imgpipe.components.train.train`` for the step train) is
    imported before the clock starts: loading TensorFlow is not the step's work.

    Returns:
        What the function returns.

    Raises:
        SystemExit: with the error's exit code, after the error was logged, if the step fails. A step that
            SIGTERM ends leaves the process with its code at once.
    """
    # A step may be made in more than one way: its name is the function's, its logic that of the folder.
    step, package = function_name, module_name.split(".")[-2]
    with _explained(step), _termination_raised():
        function = getattr(importlib.import_module(module_name), function_name)
        parameters = inspect.signature(function).parameters.values()
        arguments: dict[str, Any] = {
            parameter.name: (
                from_values(parameter.annotation, values)
                if isinstance(parameter.annotation, type) and dataclasses.is_dataclass(parameter.annotation)
                else values[parameter.name]
            )
            for parameter in parameters
        }
        artifacts = {
            name: value.path
            for name, value in arguments.items()
            if isinstance(getattr(value, "path", None), str)
        }
        log_event("step_started", f"{step}: started", step=step, artifacts=artifacts)
        importlib.import_module(f"imgpipe.components.{package}.{package}")
        started = time.monotonic()
        result = function(**arguments)
        seconds = round(time.monotonic() - started, 3)
        log_event("step_finished", f"{step}: done in {seconds:.1f} s", step=step, work_seconds=seconds)
        return result


def run_command(step: str, command: Callable[[], Any]) -> NoReturn:
    """Runs a step's command line and exits: 0, or the error's exit code after the error was logged.

    A step that SIGTERM ends leaves the process without any more of Python's own tidying up.
    """
    with _explained(step), _termination_raised():
        command()
    sys.exit(0)


def log_error(step: str, error: PipelineError) -> None:
    """Writes the ``step_failed`` line that `imgpipe` shows and a person greps for."""
    log_event(
        "step_failed",
        f"{step}: {error}",
        severity="ERROR",
        step=step,
        error=type(error).__name__,
        problem=error.problem,
        where=error.where,
        remedy=error.remedy,
        exit_code=error.exit_code,
        retry_can_help=error.retry_can_help,
    )


class _Terminated(BaseException):
    """SIGTERM arrived. No ``Exception``, so that no handler for errors of the work takes it for one."""


@contextmanager
def _explained(step: str) -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        failure = error
    except KeyboardInterrupt:
        failure = InterruptedRunError(f"{step} was interrupted", remedy="start it again")
    except _Terminated:
        failure = InterruptedRunError(f"{step} was told to stop (SIGTERM)", remedy="start it again")
        log_error(step, failure)
        sys.stdout.flush()
        sys.stderr.flush()
        # The signal may have come between the taking of a lock and the block that gives it back, of a
        # connection pool for example: a finalizer that waits for that lock would keep the process for ever.
        os._exit(failure.exit_code)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        failure = InternalError(
            f"{type(error).__name__}: {error}",
            where=f"{frame.name} in {frame.filename}, line {frame.lineno}",
            remedy="this is a mistake in imgpipe or in the environment: report it with the log above",
        )
    else:
        return
    log_error(step, failure)
    sys.exit(failure.exit_code)


@contextmanager
def _termination_raised() -> Iterator[None]:
    """Ends the block where SIGTERM, by which an orchestrator evicts a pod, arrives."""

    def raise_terminated(*_: Any) -> NoReturn:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
