"""Runs the pipeline on this machine and follows it."""

import dataclasses
import json
import os
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

from imgpipe.components.common.errors import InternalError, InterruptedRunError, OutputError, PipelineError
from imgpipe.components.common.log import parse_event
from imgpipe.pipelines.run_display import RunDisplay
from imgpipe.pipelines.run_folder import RunFolder
from imgpipe.pipelines.targets.local_docker import SECONDS_TO_END as CONTAINER_SECONDS_TO_END
from imgpipe.pipelines.targets.local_docker import ContainerSettings

# Without an event of its own, an error is shown with this many last lines of the log.
_LAST_LINES = 15
# The terminal was closed, Ctrl-C, and what an orchestrator sends.
_STOPPED_BY = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_SECONDS_TO_END = 10.0


@dataclass
class _Followed:
    """What has been seen of a run so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    work_seconds: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    current_step: str = ""
    last_lines: list[str] = field(default_factory=list)


class StepFailedError(PipelineError):
    """A step's error, as the step told it; its exit code is the step's.

    Args:
        event: The step's ``step_failed`` event.
        log: The run's log.
    """

    def __init__(self, event: Mapping[str, Any], log: Path) -> None:
        super().__init__(event["problem"], where=event["where"], remedy=event["remedy"])
        self.log = log
        self.step: str = event["step"]
        self.exit_code = event["exit_code"]
        self.retry_can_help = event["retry_can_help"]


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        top_1_accuracy: Of the published model on all validation images.
        seconds: By step, from the end of the step before to its own end, process start included; and
            ``total``.
        overhead_seconds: ``total`` less the time in which the steps' own code worked: starting
            processes, loading TensorFlow, the orchestrator.
    """

    top_1_accuracy: float
    seconds: dict[str, float]
    overhead_seconds: float


def run_locally(
    pipeline_file: Path,
    parameters: Mapping[str, Any],
    folder: RunFolder,
    display: RunDisplay,
    containers: ContainerSettings | None = None,
) -> RunResult:
    """Runs a compiled pipeline, shows it and gathers its output.

    Args:
        pipeline_file: The compiled YAML of the local target.
        parameters: Of the pipeline.
        folder: Where to write; ``job_dir`` exists.
        display: Where to show it.
        containers: How the steps' containers are run; None = steps are processes.

    Raises:
        StepFailedError: if a step failed.
        InternalError: if the run ended badly without a step's word.
    """
    started = time.monotonic()
    request = {
        "pipeline": str(pipeline_file),
        "parameters": dict(parameters),
        "artifacts": str(folder.artifacts),
        "containers": dataclasses.asdict(containers) if containers else None,
    }
    followed = _Followed()
    status = 0
    try:
        with folder.log.open("w", encoding="utf-8") as log, _runner_process(request) as process, display:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            _follow(process.stdout, log, display, started, followed)
            status = process.wait()
    except OSError as error:
        raise OutputError(
            f"cannot write to {str(folder.job_dir)!r}: {error.strerror}", remedy="free some space there"
        ) from None
    finally:
        # Above all when a step has failed: the pages say why.
        _copy_report(followed, "evaluate", folder.report)
        _copy_report(followed, "validate", folder.data_report)
    if followed.failure is not None:
        raise StepFailedError(followed.failure, folder.log)
    if status != 0 or "evaluate" not in followed.results:
        raise _unexplained(followed, folder)
    total = time.monotonic() - started
    return RunResult(
        top_1_accuracy=followed.results["evaluate"]["top_1_accuracy"],
        seconds={**{step: round(s, 3) for step, s in followed.seconds.items()}, "total": round(total, 3)},
        overhead_seconds=round(total - sum(followed.work_seconds.values()), 3),
    )


def _unexplained(followed: _Followed, folder: RunFolder) -> InternalError:
    """Returns the error of a run that ended without an error of a step's own."""
    if followed.current_step:
        return InternalError(
            f"{followed.current_step} ended without a word: it was killed, or crashed in native code",
            where=str(folder.log),
            remedy="if the machine ran out of memory, lower train_batch_size or image_size",
        )
    return InternalError(
        "the run ended without saying why; its last lines:\n  " + "\n  ".join(followed.last_lines),
        where=str(folder.log),
        remedy="report this with the log: it is a mistake in imgpipe or in the environment",
    )


def _copy_report(followed: _Followed, step: str, target: Path) -> None:
    source = followed.artifacts.get(step, {}).get("report", "")
    if source and Path(source).is_file():
        # A full disk is an error of its own, and already told.
        with suppress(OSError):
            shutil.copyfile(source, target)


def _follow(lines: IO[str], log: IO[str], display: RunDisplay, started: float, followed: _Followed) -> None:
    """Reads the run's output to its end, into the log, onto the display and into ``followed``."""
    step_started = started
    for line in lines:
        log.write(line)
        log.flush()
        event = parse_event(line)
        if event is None:
            if line.strip():
                followed.last_lines = [*followed.last_lines[1 - _LAST_LINES :], line.rstrip()]
            continue
        display.show(event)
        now = time.monotonic()
        if event["event"] == "step_started":
            followed.artifacts[event["step"]] = event["artifacts"]
            followed.current_step = event["step"]
        elif event["event"] == "step_result":
            followed.results[event["step"]] = event
        elif event["event"] == "step_finished":
            step = event["step"]
            followed.seconds[step] = now - step_started
            followed.current_step = ""
            followed.work_seconds[step] = event["work_seconds"]
            display.step_finished(step, now - step_started)
            step_started = now
        elif event["event"] == "step_failed":
            followed.failure = event
            display.step_failed(event["step"], now - step_started)


@contextmanager
def _runner_process(request: Mapping[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    """Starts kfp.local in a process group of its own, which is told to stop when we are."""
    process = subprocess.Popen(
        [sys.executable, "-m", "imgpipe.pipelines.targets.local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        # The safe path keeps the current folder out of the module search: it may hold a folder `pipelines` or
        # `components` of the user's own.
        env={
            **os.environ,
            "PYTHONIOENCODING": "utf-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",
        },
    )
    interrupted = False

    def stop(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True
        os.killpg(process.pid, signal.SIGTERM)

    # Python handles signals in the main thread only. A notebook may call from another one.
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, stop) for number in _STOPPED_BY if in_main_thread}
    try:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        with process.stdin:
            json.dump(request, process.stdin)
        yield process
    finally:
        for number, handler in previous.items():
            # A handler that was not installed by Python is None and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        # A container that is stopped has its own time for that, and is removed afterwards.
        _end(process, CONTAINER_SECONDS_TO_END if request["containers"] else _SECONDS_TO_END)
    if interrupted:
        raise InterruptedRunError(
            "the run was interrupted", remedy="start it again; the same job_dir can be used"
        )


def _end(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Ends the process group, kindly first, then by force: a step may sit in native code for minutes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = _signalled(process.pid, number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            # The runner is ours to reap; the steps are reaped by the system once it is gone.
            process.poll()
            time.sleep(0.05)
            left = _signalled(process.pid, 0)
        if not left:
            break
    process.wait()


def _signalled(group: int, number: int) -> bool:
    """Sends a signal (0 for none) to a process group; False if nothing of it is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
