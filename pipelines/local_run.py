"""Runs the pipeline on this machine and shows its progress."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from imgpipe.components.common.errors import (
    EXIT_CODE_INTERRUPTED,
    InternalError,
    InterruptedRunError,
    must_be_writable,
    reported_error,
)
from imgpipe.components.common.log import json_environment, parse_event
from imgpipe.components.common.reference_predictions import PREDICTIONS_NAME
from imgpipe.components.common.user_settings import without_user_settings
from imgpipe.pipelines.local_step import KeyboardInterruptError
from imgpipe.pipelines.run_display import RunDisplay
from imgpipe.pipelines.run_folder import RunFolder
from imgpipe.pipelines.targets.local_docker import SECONDS_TO_END as CONTAINER_SECONDS_TO_END
from imgpipe.pipelines.targets.local_docker import ContainerSettings

# An error that is not an event is shown with this many of the log's last lines.
_LAST_LINES = 15
# A closed terminal, Ctrl-C, and the signal of an orchestrator.
_STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_SECONDS_TO_END = 10.0
# These write a checkpoint after the training step that runs, which may take minutes.
_TRAINING_STEPS = ("train", "tune")
_SECONDS_TO_SAVE = 600.0
# Of a step's result: all other fields are the step's own.
_EVENT_FIELDS = ("severity", "event", "message", "time", "step", "result")


@dataclass
class _Progress:
    """The events of a run so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    work_seconds: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    current_step: str = ""
    last_lines: list[str] = field(default_factory=list)
    stop_signal: int = 0


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        top_1_accuracy: Of the published model on all validation images.
        seconds: Per step, from the end of the previous step to its own end, including process start; and
            ``total``.
        overhead_seconds: ``total`` minus the run time of the steps' own code: starting processes, loading
            TensorFlow, the orchestrator.
        gate: The gate's decision: ``passed``, ``deploy``, ``summary`` and ``checks``, each with ``name``,
            ``passed`` and ``reason``; None without a gate.
        deployment: ``summary`` and the fields of ``Deployment``; None if no model was deployed.
    """

    top_1_accuracy: float
    seconds: dict[str, float]
    overhead_seconds: float
    gate: dict[str, Any] | None
    deployment: dict[str, Any] | None


def run_locally(
    pipeline_file: Path,
    parameters: Mapping[str, Any],
    folder: RunFolder,
    display: RunDisplay,
    containers: ContainerSettings | None = None,
    *,
    command: str,
) -> RunResult:
    """Runs a compiled pipeline, shows its progress and collects its output.

    Args:
        pipeline_file: The pipeline compiled for the local target.
        parameters: The pipeline's parameters.
        folder: The output folder; its ``job_dir`` exists.
        display: Shows the progress.
        containers: How the steps' containers run; None = steps are processes.
        command: The command that starts the run, for the report.

    Raises:
        PipelineError: a step's error, with the step and the log.
        InternalError: if the run failed without an error from a step.
    """
    started = time.monotonic()
    request = {
        "pipeline": str(pipeline_file),
        "parameters": dict(parameters),
        "artifacts": str(folder.artifacts),
        "containers": dataclasses.asdict(containers) if containers else None,
    }
    progress = _Progress()
    status = 0
    try:
        with (
            must_be_writable(f"to {str(folder.job_dir)!r}", "use another job_dir"),
            folder.log.open("w", encoding="utf-8") as log,
            _runner_process(request, folder.job_dir, display, progress) as process,
            display,
        ):
            _follow(process, log, display, started, progress)
            status = process.wait()
    finally:
        # Also after a failed step: the reports show the cause.
        _copy(progress, "validate", "report", folder.data_report)
        _copy(progress, "evaluate", f"evaluation/{PREDICTIONS_NAME}", folder.predictions)
        _copy(progress, "evaluate", "report", folder.report)
        _complete_report(progress, folder.report, command, time.monotonic() - started)
    if progress.failure is not None:
        error = reported_error(progress.failure)
        error.step, error.log = progress.failure["step"], str(folder.log)
        error.add_note(f"in step {error.step}; log: {error.log}")
        raise error
    if status != 0 or "evaluate" not in progress.results:
        raise _unknown_error(progress, folder)
    total = time.monotonic() - started
    return RunResult(
        top_1_accuracy=progress.results["evaluate"]["top_1_accuracy"],
        seconds={**{step: round(s, 3) for step, s in progress.seconds.items()}, "total": round(total, 3)},
        overhead_seconds=round(total - sum(progress.work_seconds.values()), 3),
        gate=_result(progress, "gate"),
        deployment=_result(progress, "deploy"),
    )


def _result(progress: _Progress, step: str) -> dict[str, Any] | None:
    """Returns the fields of a step's result, with its text as ``summary``; None if the step did not run."""
    event = progress.results.get(step)
    if event is None:
        return None
    fields = {name: value for name, value in event.items() if name not in _EVENT_FIELDS}
    return {"summary": event["result"], **fields}


def _unknown_error(progress: _Progress, folder: RunFolder) -> InternalError:
    if progress.current_step:
        return InternalError(
            f"{progress.current_step} ended without an error message: it was killed, or native code crashed",
            where=str(folder.log),
            remedy="if the machine ran out of memory, lower train_batch_size or image_size",
        )
    return InternalError(
        "the run ended without an error message; its last lines:\n  " + "\n  ".join(progress.last_lines),
        where=str(folder.log),
        remedy="report this with the log: it is a bug in imgpipe or a problem with the environment",
    )


def _copy(progress: _Progress, step: str, output: str, target: Path) -> None:
    """Copies a step's output, or a file in it, if the step wrote it."""
    name, _, file = output.partition("/")
    source = progress.artifacts.get(step, {}).get(name, "")
    if source and (Path(source) / file).is_file():
        # A full disk has already been reported.
        with suppress(OSError):
            shutil.copyfile(Path(source) / file, target)


def _complete_report(progress: _Progress, report: Path, command: str, seconds: float) -> None:
    """Adds the command, the duration, the gate's decision and the deployment to the report."""
    if not report.is_file():
        return
    # Imported here: the commands start faster without NumPy.
    from imgpipe.components.evaluate.report import add_run

    failure = progress.failure or {}
    failed = failure.get("problem", "") if failure.get("step") == "deploy" else ""
    steps = ", ".join(f"{step} {_duration(taken)}" for step, taken in progress.seconds.items() if taken >= 1)
    with suppress(OSError):
        page = add_run(
            report.read_text(encoding="utf-8"),
            {"command": command, "duration": _duration(seconds) + (f" ({steps})" if steps else "")},
            gate=_result(progress, "gate"),
            deployment=failed or (_result(progress, "deploy") or {}).get("summary", ""),
            deployed=not failed,
        )
        report.write_text(page, encoding="utf-8")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _follow(
    process: "subprocess.Popen[str]", log: IO[str], display: RunDisplay, started: float, progress: _Progress
) -> None:
    """Writes the run's output to the log, shows its events, and records them in ``progress``."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    step_started = started
    for line in process.stdout:
        log.write(line)
        log.flush()
        event = parse_event(line)
        if event is None:
            if line.strip():
                progress.last_lines = [*progress.last_lines[1 - _LAST_LINES :], line.rstrip()]
            continue
        display.show(event)
        now = time.monotonic()
        if event["event"] == "step_started":
            progress.artifacts[event["step"]] = event["artifacts"]
            progress.current_step = event["step"]
            if progress.stop_signal:
                # It was being started when the others got the signal.
                _send_signal(process.pid, signal.SIGTERM)
        elif event["event"] == "step_result":
            progress.results[event["step"]] = event
        elif event["event"] == "step_finished":
            step = event["step"]
            progress.seconds[step] = now - step_started
            progress.current_step = ""
            progress.work_seconds[step] = event["work_seconds"]
            display.step_finished(step, now - step_started)
            step_started = now
        elif event["event"] == "step_failed":
            progress.failure = event
            interrupted = event["exit_code"] == EXIT_CODE_INTERRUPTED
            display.step_failed(event["step"], now - step_started, "interrupted" if interrupted else "failed")


@contextmanager
def _runner_process(
    request: Mapping[str, Any], job_dir: Path, display: RunDisplay, progress: _Progress
) -> Iterator["subprocess.Popen[str]"]:
    """Starts kfp.local in its own process group, which is stopped when this process is stopped.

    The first signal to this process is passed on once, and the block continues to read what the step prints:
    a training run writes a checkpoint after its running step. A second signal kills the group.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "imgpipe.pipelines.targets.local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        # The safe path keeps the current folder out of the module search path: a user's folder `pipelines` or
        # `components` would hide ours.
        env={
            **without_user_settings(json_environment()),
            "PYTHONIOENCODING": "utf-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",
        },
    )
    in_containers = request["containers"] is not None
    deadline: threading.Timer | None = None

    def stop(number: int, _: Any) -> None:
        nonlocal deadline
        if progress.stop_signal:
            # Killed, the runner could not remove a container.
            if not in_containers:
                _send_signal(process.pid, signal.SIGKILL)
            return
        progress.stop_signal = number
        _send_signal(process.pid, signal.SIGTERM)
        saves = progress.current_step in _TRAINING_STEPS
        if not in_containers:
            seconds = _SECONDS_TO_SAVE if saves else _SECONDS_TO_END
            deadline = threading.Timer(seconds, _send_signal, (process.pid, signal.SIGKILL))
            deadline.daemon = True
            deadline.start()
        if saves:
            # The terminal may have been closed.
            with suppress(OSError):
                display.stopping(can_kill=not in_containers)

    # Only the main thread can install signal handlers, and a notebook may call from another thread.
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, stop) for number in _STOP_SIGNALS if in_main_thread}
    try:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        # Broken if a signal has already ended it.
        with suppress(BrokenPipeError), process.stdin:
            json.dump(request, process.stdin)
        yield process
    finally:
        for number, handler in previous.items():
            # A handler that was not installed by Python is None and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        # Containers have their own time to stop and are removed afterwards.
        _end(process, CONTAINER_SECONDS_TO_END if in_containers else _SECONDS_TO_END)
        if deadline is not None:
            deadline.cancel()
            deadline.join()
    if progress.stop_signal and process.returncode != 0:
        error_class = KeyboardInterruptError if progress.stop_signal == signal.SIGINT else InterruptedRunError
        folder = str(job_dir)
        # A training run says at which step.
        reason = f": {progress.failure['problem']}" if progress.failure else ""
        raise error_class(
            f"the run was interrupted{reason}",
            remedy=f"continue with `imgpipe resume {shlex.quote(folder)}` "
            f"(in Python: job_dir={json.dumps(folder, ensure_ascii=False)})",
        )


def _end(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Stops the process group with SIGTERM, then SIGKILL: a step may be in native code for minutes."""
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        alive = _send_signal(process.pid, stop_signal)
        deadline = time.monotonic() + seconds
        while alive and time.monotonic() < deadline:
            # Reaps the runner; the system reaps the steps after the runner has ended.
            process.poll()
            time.sleep(0.05)
            alive = _send_signal(process.pid, 0)
        if not alive:
            break
    process.wait()
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    process.stdout.close()


def _send_signal(group: int, number: int) -> bool:
    """Sends a signal (0 = none) to a process group; returns whether the group exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
