"""Jobs on this machine: each is a pipeline run in its own process, with its own folder."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import (
    EXIT_CODE_INTERRUPTED,
    InternalError,
    InvalidArgumentError,
    reported_error,
)
from imgpipe.components.common.log import parse_event
from imgpipe.components.storage import atomic_write, local_path
from imgpipe.pipelines.run_folder import RunFolder, is_unfinished, latest_process, running_process
from imgpipe.pipelines.run_settings import read_settings
from imgpipe.pipelines.targets.jobs import Job, no_such_job

RUNS = "imgpipe-runs"
_REGISTER = ".jobs"
# Checking the arguments takes a second or two; then the run has locked its folder or ended with an error.
_SECONDS_TO_START = 60.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class LocalJobs:
    """The jobs in a folder.

    Attributes:
        runs: The folder, e.g. ``imgpipe-runs``.
    """

    runs: Path

    def submit(
        self, job_id: str, parameters: Mapping[str, Any], *, retrain: bool = False
    ) -> tuple[Job, bool]:
        """Starts a pipeline run that outlives this process.

        Args:
            job_id: The job's name.
            parameters: The pipeline's parameters, optionally with ``job_dir``. With ``hyperparameters``, the
                tuning pipeline runs.
            retrain: Whether to run the pipeline that starts from the deployed model.

        Returns:
            The job, and whether it already existed: running or finished.

        Raises:
            InvalidArgumentError: if the name was used for another request.
            PipelineError: the run's error, if it ended before its first step.
        """
        folder = local_path(str(parameters.get("job_dir") or self.runs / job_id)).absolute()
        values = {**parameters, "job_dir": str(folder)}
        request = {**values, "retrain": retrain}
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        known = self._registered(job_id)
        if known is not None:
            if known["request"] != digest:
                raise InvalidArgumentError(
                    f"the job id {job_id!r} was used for another request",
                    where=known["job_dir"],
                    remedy="use a new job id, or see the existing job with `imgpipe describe`",
                )
            job = self.describe(job_id)
            if job.state in ("RUNNING", "CANCELLING", "SUCCEEDED"):
                return job, True
        entry = {
            "job_id": job_id,
            "job_dir": str(folder),
            "request": digest,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        with atomic_write(self._register(job_id)) as temporary:
            temporary.write_text(json.dumps(entry))
        found = self._start(values, folder, self._output(job_id), retrain=retrain)
        return self.describe(job_id), found

    def describe(self, job_id: str) -> Job:
        """Returns the job with this name or this run folder."""
        known = self._registered(job_id)
        folder = RunFolder(Path(known["job_dir"]) if known else self._folder(job_id))
        error = _read_error(self._output(job_id)) if known else None
        cancelled = self._is_cancelled(folder)
        return _job(job_id, folder, known["created"] if known else "", error, cancelled=cancelled)

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest jobs, newest first, including runs of `imgpipe run`."""
        names = {path.stem for path in (self.runs / _REGISTER).glob("*.json")}
        folders = {str(Path(entry["job_dir"])) for name in names if (entry := self._registered(name))}
        if self.runs.is_dir():
            names |= {
                path.name
                for path in self.runs.iterdir()
                if path.is_dir() and path.name != _REGISTER and str(path.absolute()) not in folders
            }
        found = [self.describe(name) for name in names]
        return sorted(found, key=lambda job: (job.created, job.job_id), reverse=True)[:limit]

    def logs(self, job_id: str, *, follow: bool, everything: bool = False) -> Iterator[str]:
        """Yields the lines of the run's log; with ``follow``, until the run has ended.

        Args:
            job_id: The job.
            follow: Whether to wait for further lines.
            everything: Whether to yield also the lines that KFP and libraries wrote.
        """
        for line in self._lines(job_id, follow=follow):
            event = parse_event(line)
            if event or everything:
                yield str(event["message"]) if event else line

    def _lines(self, job_id: str, *, follow: bool) -> Iterator[str]:
        folder = RunFolder(Path(self.describe(job_id).name))
        while follow and not folder.log.is_file() and running_process(folder):
            time.sleep(_POLL_SECONDS)
        if not folder.log.is_file():
            return
        with folder.log.open(encoding="utf-8", errors="replace") as log:
            partial = ""
            while True:
                # Checked before the last read, so that no line is missed.
                running = follow and bool(running_process(folder))
                for line in log:
                    partial += line
                    if partial.endswith("\n"):
                        yield partial.rstrip("\n")
                        partial = ""
                if not running:
                    break
                time.sleep(_POLL_SECONDS)
            if partial:
                yield partial

    def cancel(self, job_id: str) -> None:
        """Sends SIGTERM to the run; does nothing if it has ended or is being cancelled.

        A second signal would end the run while it stops its step.
        """
        folder = RunFolder(Path(self.describe(job_id).name))
        process = running_process(folder)
        if process and not self._is_cancelled(folder):
            with atomic_write(self._cancellation(folder)) as temporary:
                temporary.write_text(str(process))
            os.kill(process, signal.SIGTERM)

    def _cancellation(self, folder: RunFolder) -> Path:
        digest = hashlib.sha256(str(folder.job_dir).encode()).hexdigest()
        return self.runs / _REGISTER / f"{digest}.cancelled"

    def _is_cancelled(self, folder: RunFolder) -> bool:
        """Returns whether the folder's latest run was cancelled."""
        try:
            return int(self._cancellation(folder).read_text()) == latest_process(folder)
        except (OSError, ValueError):
            return False

    def _start(self, values: Mapping[str, Any], folder: Path, output: Path, *, retrain: bool) -> bool:
        """Starts the run; returns whether another client started it first."""
        flags = [
            f"--{name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in values.items()
        ]
        command = ["tune" if "hyperparameters" in values else "run", *(["--retrain"] if retrain else [])]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from imgpipe.pipelines.cli import main; main()", *command),
                    *("--format", "json", *flags),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # The run outlives the terminal and ignores its Ctrl-C.
                start_new_session=True,
                # Keeps a user's folder `pipelines` from hiding ours.
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        deadline = time.monotonic() + _SECONDS_TO_START
        while running_process(RunFolder(folder)) != process.pid:
            status = process.poll()
            if status is not None:
                if status != 0 and running_process(RunFolder(folder)):
                    return True
                if status != 0:
                    if error := _read_error(output):
                        raise reported_error({**error, "problem": error["error"]})
                    raise _unknown_error(output, status)
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return False

    def _register(self, job_id: str) -> Path:
        return self.runs / _REGISTER / f"{job_id}.json"

    def _output(self, job_id: str) -> Path:
        return self.runs / _REGISTER / f"{job_id}.out"

    def _registered(self, job_id: str) -> dict[str, str] | None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", job_id):
            return None
        try:
            entry: dict[str, str] = json.loads(self._register(job_id).read_text())
        except OSError:
            return None
        return entry

    def _folder(self, job_id: str) -> Path:
        for folder in (self.runs / job_id, local_path(job_id)):
            if folder.is_dir():
                return folder.absolute()
        raise no_such_job(job_id, str(self.runs))


def _job(
    job_id: str, folder: RunFolder, created: str, output: Mapping[str, Any] | None, *, cancelled: bool
) -> Job:
    """Returns the state that the run's log records; if the log has no error, the error in its ``output``."""
    events = _events(folder.log)
    failure = next((event for event in reversed(events) if event["event"] == "step_failed"), None)
    steps = {}
    for event in events:
        if event["event"] in ("step_started", "step_finished", "step_failed"):
            steps[event["step"]] = {
                "step_started": "RUNNING",
                "step_finished": "SUCCEEDED",
                "step_failed": "FAILED",
            }[event["event"]]
    ending = next((event for event in reversed(events) if event["event"] == "run_failed"), None)
    error, ended = "", events[-1]["time"] if events else ""
    if running_process(folder):
        state, ended = "CANCELLING" if cancelled else "RUNNING", ""
    elif folder.model.is_dir() and not is_unfinished(folder):
        state = "SUCCEEDED"
    elif cancelled:
        state = "CANCELLED"
    elif failure is not None:
        state = "CANCELLED" if failure["exit_code"] == EXIT_CODE_INTERRUPTED else "FAILED"
        error = f"{failure['step']}: {failure['problem']}"
    elif ending is not None:
        state = "CANCELLED" if ending["exit_code"] == EXIT_CODE_INTERRUPTED else "FAILED"
        error = ending["problem"]
    elif output is not None:
        state = "CANCELLED" if output["exit_code"] == EXIT_CODE_INTERRUPTED else "FAILED"
        error = output["error"]
    else:
        state, error = "FAILED", "it ended without an error message: it was killed, or the machine stopped"
    if state == "CANCELLED":
        steps = {step: value if value == "SUCCEEDED" else state for step, value in steps.items()}
    results = {event["step"]: event for event in events if event["event"] == "step_result"}
    settings = read_settings(folder)
    recorded = {
        "accuracy": results["evaluate"].get("top_1_accuracy") if "evaluate" in results else None,
        "data": settings.data if settings else "",
        "arguments": settings.options if settings else {},
    }
    return Job(
        job_id=job_id,
        target="local",
        kind="pipeline run",
        state=state,
        name=str(folder.job_dir),
        created=created or (events[0]["time"] if events else ""),
        ended=ended,
        error=error,
        details={
            "steps": steps,
            "results": {step: event["result"] for step, event in results.items()},
            **{name: value for name, value in recorded.items() if value},
        },
    )


def _events(log: Path) -> list[dict[str, Any]]:
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            return [event for line in lines if (event := parse_event(line))]
    except OSError:
        return []


def _read_error(output: Path) -> dict[str, Any] | None:
    """Returns the error that ``imgpipe run --format json`` printed last, if any."""
    try:
        last = json.loads(output.read_text(encoding="utf-8", errors="replace").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
    return last if isinstance(last, dict) and "error" in last else None


def _unknown_error(output: Path, status: int) -> InternalError:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    text = "\n".join(line for line in lines[-15:] if line.strip())
    return InternalError(
        f"the run ended with exit status {status}:\n{text}",
        where=str(output),
        remedy="fix the error in this output",
    )
