"""Runs a step's function: checks arguments, logs errors and durations, sets the exit code.

Used by all entry points of a step: the KFP component (``run_component``; ``run_components`` if several run in
one step) and the command line (``run_command``).
"""

import dataclasses
import importlib
import inspect
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from imgpipe.components.common.arguments import RunValues, flat_fields, from_values, with_flags
from imgpipe.components.common.errors import (
    InternalError,
    InterruptedRunError,
    OutputError,
    PipelineError,
    os_error_remedy,
)
from imgpipe.components.common.log import ignore_broken_pipe, is_json, log_event
from imgpipe.components.common.user_settings import ignored_keras_settings
from imgpipe.components.common.webhook import (
    CANCELLED,
    FAILED,
    STOP_REPORTED,
    SUCCEEDED,
    has_webhook,
    report_end,
)
from imgpipe.components.platforms.kubernetes.storage_secret import use_storage_secret

_LAST_STEPS = ("publish", "batch_predict")
_AFTER_DEADLINE = "start the run again: with the same job_dir, the training continues"


def run_component(
    module_name: str, function_name: str, values: Mapping[str, Any], *, pipeline: str = "", target: str = ""
) -> Any:
    """Calls the function of a ``component.py`` with the flat values from KFP.

    The first step of a pipeline gets all of its inputs, and checks the whole run before its own work.

    A parameter that is annotated with an arguments dataclass is built from the values of its fields. The
    step's logic module (``imgpipe.components.train.train`` for the step train) is imported before the
    duration is measured: loading TensorFlow is not part of the step's work.

    Args:
        module_name: The module.
        function_name: The function, which is the step's name.
        values: The inputs, and the artifacts.
        pipeline: The pipeline whose first step this is; empty = not the first.
        target: The target of the pipeline.

    Returns:
        The function's return value.

    Raises:
        SystemExit: with the error's exit code, after the error was logged, if the step fails. On SIGTERM
            the process exits immediately.
    """
    _prepare_process()
    result = _run(function_name, module_name, function_name, values, pipeline, target)
    _report_success(function_name)
    return result


def run_components(
    step: str,
    components: Sequence[tuple[str, str]],
    values: Mapping[str, Any],
    *,
    pipeline: str = "",
    target: str = "",
) -> None:
    """Runs several components in this process, one after another; each logs as if it were a step of its own.

    An output of a component is the input of a later one that has the same name. After a component that
    returns False, the step ends: a model that does not pass the gate is not deployed.

    Args:
        step: The step's name.
        components: The module and the function of each.
        values: The inputs, and the artifacts, of all of them.
        pipeline: See ``run_component``.
        target: See ``run_component``.

    Raises:
        SystemExit: See ``run_component``.
    """
    _prepare_process()
    if pipeline:
        with _logged(step, step, {}):
            started = time.monotonic()
            values = _checked(step, pipeline, target, values)
            _log_finished(step, started)
    for module_name, function_name in components:
        if _run(step, module_name, function_name, values) is False:
            break
    _report_success(step)


def _prepare_process() -> None:
    use_storage_secret()
    if has_webhook():
        # On SIGTERM there is no time to import it: KFP's launcher ends immediately, and within a second its
        # container and this process (argo-workflows 4.0.5, workflow/executor/osspecific/signal_linux.go).
        importlib.import_module("imgpipe.components.platforms.kubernetes.workflow")


def _run(
    step: str,
    module_name: str,
    function_name: str,
    values: Mapping[str, Any],
    pipeline: str = "",
    target: str = "",
) -> Any:
    """Calls one component function and logs its start and its end, or exits with its error."""
    with _logged(step, function_name, values):
        function = getattr(importlib.import_module(module_name), function_name)
        _log_ignored_settings()
        if pipeline:
            values = _checked(step, pipeline, target, values)
        elif "settings" in values:
            # The first step of a form has checked them.
            values = {**values, **values["settings"]}
        arguments: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            kind = parameter.annotation
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                arguments[name] = from_values(kind, values)
            else:
                arguments[name] = values if kind is RunValues else values[name]
        # Several component functions may share the logic module of one folder.
        package = module_name.split(".")[-2]
        importlib.import_module(f"imgpipe.components.{package}.{package}")
        started = time.monotonic()
        result = function(**arguments)
        _log_finished(function_name, started)
        return result


@contextmanager
def _logged(step: str, component: str, values: Mapping[str, Any]) -> Iterator[None]:
    """Logs the start of a component in the block, and its error, after which it exits."""

    def report_failure(error: PipelineError) -> None:
        report_end(FAILED, step, problem=error.problem, remedy=error.remedy)

    with _exit_on_error(component, report_failure, lambda: _report_stop(step)), _raise_on_sigterm():
        artifacts = {
            name: value.path
            for name, value in values.items()
            if isinstance(getattr(value, "path", None), str)
        }
        log_event("step_started", f"{component}: started", step=component, artifacts=artifacts)
        yield


def _log_finished(component: str, started: float) -> None:
    seconds = round(time.monotonic() - started, 3)
    log_event("step_finished", f"{component}: done in {seconds:.1f} s", step=component, work_seconds=seconds)


def _checked(step: str, pipeline: str, target: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    # Imported here: it loads the arguments of all steps.
    from imgpipe.components.preflight.preflight import check_run

    return check_run(pipeline, target, values, step=step)


def _report_success(step: str) -> None:
    if step in _LAST_STEPS:
        report_end(SUCCEEDED, step)


def run_command(
    step: str, command: Callable[[], Any], arguments_classes: Iterable[type[Any]] = ()
) -> NoReturn:
    """Runs a step's command line and exits: 0, or the error's exit code after the error was logged.

    On SIGTERM the process exits without Python's own cleanup.

    Args:
        step: The step's name.
        command: The command.
        arguments_classes: What its flags are; an error that people read names them as flags.
    """
    use_storage_secret()
    with _exit_on_error(step, flags=flat_fields(arguments_classes)), _raise_on_sigterm():
        _log_ignored_settings()
        command()
    sys.exit(0)


def _log_ignored_settings() -> None:
    if ignored := ignored_keras_settings():
        message = f"these settings of Keras are ignored: {', '.join(ignored)}"
        log_event("settings_ignored", message, severity="WARNING", settings=ignored)


def log_error(step: str, error: PipelineError, *, flags: Iterable[str] = ()) -> None:
    """Writes the ``step_failed`` line, which `imgpipe run` shows; for people, with arguments as flags."""
    if flags and not is_json():
        texts = (with_flags(text, flags) for text in (error.problem, error.where, error.remedy))
        error.problem, error.where, error.remedy = texts
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


def _report_stop(step: str) -> None:
    """Reports that the run was stopped, if it was: an evicted step starts again."""
    if not has_webhook():
        return
    # Imported here, and by run_component: few runs need it.
    from imgpipe.components.platforms.kubeflow.workflow import CANCELLED as STOPPED_BY_USER
    from imgpipe.components.platforms.kubernetes.workflow import own_stop_reason

    reason = own_stop_reason()
    if not reason:
        return
    state, problem, remedy = CANCELLED, "", ""
    if reason != STOPPED_BY_USER:
        state, problem, remedy = FAILED, f"the run was stopped {reason}", _AFTER_DEADLINE
    # The process is killed within a second: there is no time for a second attempt. The step notify may not
    # start in a run that was stopped (docs/kubeflow.md).
    if report_end(state, step, problem=problem, remedy=remedy, retries=False, even_with_notify=True):
        log_event("stop_reported", f"{step}: {STOP_REPORTED}", step=step)


class _Terminated(BaseException):
    """SIGTERM arrived. Not an ``Exception``, so that error handlers of the step do not catch it."""


@contextmanager
def _exit_on_error(
    step: str,
    report_failure: Callable[[PipelineError], None] = lambda _: None,
    report_termination: Callable[[], None] = lambda: None,
    *,
    flags: Iterable[str] = (),
) -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        failure = error
    except KeyboardInterrupt:
        failure = InterruptedRunError(f"{step} was interrupted", remedy="start it again")
    except _Terminated:
        failure = InterruptedRunError(f"{step} was terminated by SIGTERM", remedy="start it again")
        try:
            log_error(step, failure)
            report_termination()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # The signal may have arrived after a lock was acquired, e.g. of a connection pool, and before the
            # block that releases it: a finalizer that waits for that lock would never return.
            os._exit(failure.exit_code)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        failure = _failure_of(error)
    else:
        return
    log_error(step, failure, flags=flags)
    report_failure(failure)
    sys.exit(failure.exit_code)


def _failure_of(error: Exception) -> PipelineError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.name} in {frame.filename}, line {frame.lineno}"
    if isinstance(error, OSError) and (remedy := os_error_remedy(error)):
        file = f"{error.filename!r}: " if error.filename else ""
        return OutputError(f"{file}{error.strerror}", where=where, remedy=remedy)
    return InternalError(
        f"{type(error).__name__}: {error}",
        where=where,
        remedy="this is a bug in imgpipe or in the environment: report it with the log above",
    )


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """Raises ``_Terminated`` in the block on SIGTERM, e.g. when an orchestrator evicts the pod."""

    def raise_terminated(*_: Any) -> NoReturn:
        ignore_broken_pipe()
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
