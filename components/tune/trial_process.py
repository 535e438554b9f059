"""One process per trial: forked from the search, which has loaded TensorFlow but not used it, or spawned.

After each evaluation the trial sends all its evaluations to the search and waits for the response. If the
search is killed, its trials notice, write a checkpoint and exit: there are no orphaned trials.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from imgpipe.components.common.forking import has_run_operations
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE, log_event, parse_event
from imgpipe.components.common.step import run_command
from imgpipe.components.tune.trial_run import LOG_FILE, ShouldStop, TrialTask

_MAX_LAST_LINES = 20
_LOG_TAIL_BYTES = 64_000
# When memory runs out, the kernel kills a trial rather than the search.
_OOM_SCORE = "500"

# Runs a trial; the return value is ignored.
TrialFunction = Callable[[TrialTask, ShouldStop], Any]


class Closable(Protocol):
    """An open file or connection."""

    def close(self) -> None:
        """Closes it."""


class TrialProcess:
    """A running trial, as seen by the search.

    Attributes:
        task: What the trial does.
        log: The file with the output of all starts of the trial.
        log_offset: Where in ``log`` the output of this start begins.
        connection: Receives the evaluations so far; each message expects a reason to stop, or an empty
            string, as the response.
        sentinel: Becomes ready when the process exits; for ``multiprocessing.connection.wait``.
        pid: The process ID, which is also its process group.

    Args:
        task: What the trial does.
        function: Runs the trial in the process.
        warm: Whether to fork the search process (``can_fork_trials``) rather than start a new interpreter.
        inherited: Files of the search that a forked process must close: the search's lock and the
            connections to other trials would outlive the search.
    """

    def __init__(
        self, task: TrialTask, function: TrialFunction, *, warm: bool, inherited: Sequence[Closable] = ()
    ) -> None:
        self.task = task
        self.log = Path(task.folder) / LOG_FILE
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log_offset = self.log.stat().st_size if self.log.exists() else 0
        self._log_size = -1
        self._started = self._last_output = time.monotonic()
        context: Any = multiprocessing.get_context("fork" if warm else "spawn")
        self.connection, child_connection = context.Pipe()
        child_lifeline, self._lifeline = context.Pipe(duplex=False)
        to_close = (self, *inherited) if warm else ()
        self._process = context.Process(
            target=_main, args=(function, task, child_connection, child_lifeline, self.log, to_close)
        )
        # A spawned process would import the main module, which fails for a script without a __main__ guard.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            self._process.start()
        finally:
            sys.modules["__main__"] = main
        child_connection.close()
        child_lifeline.close()
        self.sentinel, self.pid = self._process.sentinel, self._process.pid

    def poll(self) -> int | None:
        """Returns the exit code, the negative signal number if a signal ended it, or None while it runs."""
        return self._process.exitcode  # type: ignore[no-any-return]

    @property
    def seconds(self) -> float:
        """The time since it was started."""
        return time.monotonic() - self._started

    def silent_seconds(self) -> float:
        """Returns the seconds since the trial last wrote to its log."""
        with suppress(OSError):
            size = self.log.stat().st_size
            if size != self._log_size:
                self._log_size, self._last_output = size, time.monotonic()
        return time.monotonic() - self._last_output

    def close(self) -> None:
        """Closes the connection; a trial that is still running writes a checkpoint and exits."""
        self._lifeline.close()
        self.connection.close()

    def join(self, timeout: float) -> None:
        """Waits up to ``timeout`` seconds for the process to exit."""
        self._process.join(timeout)

    def kill(self) -> None:
        """Kills the process and its children, and returns when it has exited."""
        if self.poll() is None:
            # Its process group first, for its data workers.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()


def can_fork_trials() -> bool:
    """Returns whether a forked process can use TensorFlow: on Linux, if this process has not used it yet."""
    return sys.platform == "linux" and threading.active_count() == 1 and not has_run_operations()


def failure_of(log: Path, offset: int, exit_code: int) -> tuple[str, tuple[str, ...]]:
    """Returns why a trial's process failed, and its last lines of output.

    Args:
        log: The trial's log file.
        offset: Where in the file the output of this start begins.
        exit_code: The exit code of the process.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(offset, log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    problem, last_lines, _ = failure_in(lines)
    if not problem and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = ": the machine may have run out of memory" if exit_code == -signal.SIGKILL else ""
        problem = f"the process was ended by {name}{memory}"
    return problem or f"the process ended with exit code {exit_code}", last_lines


def failure_in(lines: Sequence[str]) -> tuple[str, tuple[str, ...], int]:
    """Returns the problem that a trial's output states, its last lines and the exit code that it states.

    If the output states none, the problem is empty and the exit code 0.
    """
    problem, last_lines, exit_code = "", [], 0
    for line in lines:
        event = parse_event(line)
        if event is None:
            if line.strip():
                last_lines.append(line.rstrip()[:500])
        elif event["event"] != "progress":
            last_lines.append(str(event["message"])[:500])
            if event["event"] == "step_failed":
                problem, exit_code = str(event["problem"]), int(event.get("exit_code", 0))
    return problem, tuple(last_lines[-_MAX_LAST_LINES:]), exit_code


def _main(
    function: TrialFunction,
    task: TrialTask,
    connection: Connection,
    lifeline: Connection,
    log: Path,
    to_close: Sequence[Closable],
) -> None:
    os.setsid()
    for file in to_close:
        file.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # The Python-level streams may be a notebook's or pytest's.
    sys.stdout = sys.stderr = open(  # noqa: SIM115 - used until the process exits
        1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    # The search reads the events in the log.
    os.environ[LOG_FORMAT_VARIABLE] = JSON
    if task.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpus
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    watcher = threading.Thread(target=_terminate_after, args=(lifeline,), daemon=True)
    watcher.start()

    def should_stop(evaluations: Sequence[dict[str, Any]]) -> str:
        try:
            connection.send(list(evaluations))
            return str(connection.recv())
        except (EOFError, OSError):
            # The lifeline is closed too: wait for the signal.
            watcher.join()
            return ""

    def run() -> None:
        log_event("trial_started", f"trial {task.trial}: started", trial=task.trial, pid=os.getpid())
        function(task, should_stop)

    run_command("trial", run)


def _terminate_after(lifeline: Connection) -> None:
    """Makes the trial write a checkpoint and exit when the search closes the lifeline, or is killed."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    log_event("search_ended", "the search has ended, so the trial stops", severity="WARNING")
    os.kill(os.getpid(), signal.SIGTERM)
