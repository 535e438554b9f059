"""Runs the pipeline on this machine and follows it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from components.common.errors import InternalError, InterruptedRunError, PipelineError
from components.common.log import parse_event
from pipelines.run_display import RunDisplay

# Without an event of its own, an error is shown with this many last lines of the log.
_LAST_LINES = 15


@dataclass(frozen=True)
class RunFolder:
    """Where a run's output lies below its job_dir."""

    job_dir: Path

    @property
    def model(self) -> Path:
        """The checked SavedModel."""
        return self.job_dir / "model"

    @property
    def report(self) -> Path:
        """The evaluation's page."""
        return self.job_dir / "report.html"

    @property
    def data_report(self) -> Path:
        """The validation's page."""
        return self.job_dir / "data_report.html"

    @property
    def log(self) -> Path:
        """Everything that the steps printed."""
        return self.job_dir / "run.log"

    @property
    def artifacts(self) -> Path:
        """KFP's artifacts of each step."""
        return self.job_dir / "artifacts"


@dataclass
class _Followed:
    """What has been seen of a run so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    work_seconds: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
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
    pipeline_file: Path, parameters: Mapping[str, Any], folder: RunFolder, display: RunDisplay
) -> RunResult:
    """Runs a compiled pipeline, shows it and gathers its output.

    Args:
        pipeline_file: The compiled YAML of the local target.
        parameters: Of the pipeline.
        folder: Where to write; ``job_dir`` exists.
        display: Where to show it.

    Raises:
        StepFailedError: if a step failed.
        InternalError: if the run ended badly without a step's word.
    """
    started = time.monotonic()
    request = {
        "pipeline": str(pipeline_file),
        "parameters": dict(parameters),
        "artifacts": str(folder.artifacts),
    }
    with folder.log.open("w", encoding="utf-8") as log, _runner_process(request) as process, display:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        followed = _follow(process.stdout, log, display, started)
        status = process.wait()
    if followed.failure is not None:
        raise StepFailedError(followed.failure, folder.log)
    if status != 0 or "evaluate" not in followed.results:
        raise InternalError(
            f"the run ended with status {status} without saying why; its last lines:\n  "
            + "\n  ".join(followed.last_lines),
            where=str(folder.log),
            remedy="was a process killed, for want of memory perhaps? Look into the log",
        )
    shutil.copyfile(followed.artifacts["evaluate"]["report"], folder.report)
    shutil.copyfile(followed.artifacts["validate"]["report"], folder.data_report)
    total = time.monotonic() - started
    return RunResult(
        top_1_accuracy=followed.results["evaluate"]["top_1_accuracy"],
        seconds={**{step: round(s, 3) for step, s in followed.seconds.items()}, "total": round(total, 3)},
        overhead_seconds=round(total - sum(followed.work_seconds.values()), 3),
    )


def _follow(lines: IO[str], log: IO[str], display: RunDisplay, started: float) -> _Followed:
    followed = _Followed()
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
        if event["event"] == "step_result":
            followed.results[event["step"]] = event
        elif event["event"] == "step_finished":
            step = event["step"]
            followed.seconds[step] = now - step_started
            followed.work_seconds[step] = event["work_seconds"]
            followed.artifacts[step] = event["artifacts"]
            display.step_finished(step, now - step_started)
            step_started = now
        elif event["event"] == "step_failed":
            followed.failure = event
            display.step_failed(event["step"], now - step_started)
    return followed


@contextmanager
def _runner_process(request: Mapping[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    """Starts kfp.local in a process group of its own, which is told to stop when we are."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.targets.local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
    )
    interrupted = False

    def stop(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True
        os.killpg(process.pid, signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        with process.stdin:
            json.dump(request, process.stdin)
        yield process
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if interrupted:
        raise InterruptedRunError("the run was interrupted", remedy="start it again, with a new job_dir")
