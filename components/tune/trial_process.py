"""A trial's process: forked from this one, which has TensorFlow loaded and has not used it, or started anew.

The process asks over a pipe after every evaluation whether to go on. If the pipe closes, the search is gone:
the trial writes a checkpoint and ends, so that nobody trains for nobody.
"""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from imgpipe.components.common.log import log_event, parse_event
from imgpipe.components.common.step import run_command
from imgpipe.components.tune.trial_run import LOG_FILE, TrialTask, read_task

# Where a process finds its pipes: (questions to write, answers to read).
_QUESTIONS, _ANSWERS = 3, 4
_LAST_LINES = 20
# Bytes at the end of a log that hold the last lines.
_TAIL_BYTES = 64_000
# For the system's choice of a victim when memory runs out: a trial, before the search.
_OUT_OF_MEMORY_SCORE = "500"


class TrialProcess:
    """A running trial, seen from the search.

    Attributes:
        task: What it is to do.
        log: The file that has all its output.
        begun_at: Where in it the output of this start begins.
        questions: The pipe to wait on before ``asked``.
        is_silent: Whether there will be no more questions.
        pid: Of the process.

    Args:
        task: What it is to do.
        warm: Whether to fork it from this process; see ``can_fork``.
    """

    def __init__(self, task: TrialTask, *, warm: bool) -> None:
        self.task = task
        self.log = Path(task.folder) / LOG_FILE
        self.log.parent.mkdir(parents=True, exist_ok=True)
        path = task.write()
        self.questions, theirs_questions = os.pipe()
        theirs_answers, self._answers = os.pipe()
        self._buffer = b""
        self._status: int | None = None
        self.is_silent = self._is_closed = False
        self._log_size, self._heard = -1, time.monotonic()
        self.begun_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            pipes = (theirs_questions, theirs_answers)
            self._popen = None if warm else _execute(path, pipes, log)
            self.pid = self._popen.pid if self._popen else _fork(path, pipes, log)
        os.close(theirs_questions)
        os.close(theirs_answers)

    def asked(self) -> list[list[dict[str, Any]]]:
        """Returns the questions that have arrived, each the evaluations so far; waits for one or the end."""
        received = os.read(self.questions, 1 << 20)
        self.is_silent = not received
        self._buffer += received
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line)["evaluations"] for line in lines]

    def answer(self, stop_reason: str) -> None:
        """Answers a question: empty for going on."""
        with suppress(BrokenPipeError):
            os.write(self._answers, json.dumps({"stop": stop_reason}).encode() + b"\n")

    def poll(self) -> int | None:
        """Returns the exit code, below 0 the signal, or None while it runs."""
        if self._status is None:
            if self._popen is not None:
                self._status = self._popen.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def silent_seconds(self) -> float:
        """Returns for how long it has written nothing."""
        with suppress(OSError):
            size = self.log.stat().st_size
            if size != self._log_size:
                self._log_size, self._heard = size, time.monotonic()
        return time.monotonic() - self._heard

    def tell_to_stop(self) -> None:
        """Closes the pipes, as if the search were gone: it writes a checkpoint and ends."""
        self.close()

    def kill(self) -> int:
        """Ends it at once, with all that it has started, and returns its exit code."""
        self._signal(signal.SIGKILL)
        while (status := self.poll()) is None:
            time.sleep(0.01)
        return status

    def close(self) -> None:
        """Closes the pipes."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self.questions)
            os.close(self._answers)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            # Its group: data workers too.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def can_fork() -> bool:
    """Tells whether a forked process can use TensorFlow: on Linux, while this one has not used it.

    Importing it starts no thread of its own; its first operation does, and then a forked process hangs.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        return False
    module = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(module, "_context", None)
    return context is None or not getattr(context, "_initialized", True)


def warm_up(work: str) -> None:
    """Loads what trials need, so that forked ones have it."""
    getattr(importlib.import_module(work.partition(":")[0]), "warm_up", lambda: None)()


def failure_of(log: Path, begun_at: int, exit_code: int) -> tuple[str, tuple[str, ...]]:
    """Returns why a trial's process failed, and its last lines of output.

    Args:
        log: Its output, perhaps of earlier starts, too.
        begun_at: Where in the file the output of this start begins.
        exit_code: Of the process.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(begun_at, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    problem, shown, _ = failure_in(lines)
    if not problem and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = ": the machine may have run out of memory" if exit_code == -signal.SIGKILL else ""
        problem = f"its process was ended by {name}{memory}"
    return problem or f"its process ended with exit code {exit_code}", shown


def failure_in(lines: Sequence[str]) -> tuple[str, tuple[str, ...], int]:
    """Returns the problem that a trial's output states, its last lines, and the exit code that it states.

    The problem is empty, and the exit code 0, where the output says nothing of either.
    """
    problem, shown, exit_code = "", [], 0
    for line in lines:
        event = parse_event(line)
        if event is None:
            if line.strip():
                shown.append(line.rstrip()[:500])
        elif event["event"] != "progress":
            shown.append(str(event["message"])[:500])
            if event["event"] == "step_failed":
                problem, exit_code = str(event["problem"]), int(event.get("exit_code", 0))
    return problem, tuple(shown[-_LAST_LINES:]), exit_code


def _fork(path: Path, pipes: tuple[int, int], log: IO[bytes]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        # Whatever the search holds open (its lock, the pipes of other trials) must not live on in here.
        kept = [os.dup(number) for number in (*pipes, log.fileno())]
        highest = max(kept) + 1
        safe = [os.dup2(number, highest + place) for place, number in enumerate(kept)]
        for number, target in zip(safe, (_QUESTIONS, _ANSWERS, 1), strict=True):
            os.dup2(number, target)
        os.dup2(1, 2)
        os.closerange(_ANSWERS + 1, os.sysconf("SC_OPEN_MAX"))
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        main(path)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        # No clean-up of what belongs to the search.
        os._exit(code)


def _execute(path: Path, pipes: tuple[int, int], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "imgpipe.components.tune.trial_process", str(path), *map(str, pipes)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=pipes,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
    )


def main(path: Path, questions: int = _QUESTIONS, answers: int = _ANSWERS) -> None:
    """Runs the trial of a task's file and exits."""
    task = read_task(path)
    _take_share(task)
    line = _Line(questions, answers)
    run_command("trial", lambda: _run(task, line))


def _run(task: TrialTask, line: "_Line") -> None:
    log_event("trial_started", f"trial {task.trial}: started", trial=task.trial, pid=os.getpid())
    line.listen()
    module, _, function = task.work.partition(":")
    getattr(importlib.import_module(module), function)(task, line.ask)
    line.hang_up()


class _Line:
    """The pipe to the search, seen from the trial."""

    def __init__(self, questions: int, answers: int) -> None:
        self._questions, self._answers = questions, answers
        self._received: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done = False

    def listen(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, evaluations: Sequence[dict[str, Any]]) -> str:
        try:
            with os.fdopen(self._questions, "wb", closefd=False) as questions:
                questions.write(json.dumps({"evaluations": list(evaluations)}).encode() + b"\n")
        except BrokenPipeError:
            self._abandoned()
            return ""
        return self._received.get()

    def hang_up(self) -> None:
        self._done = True

    def _read(self) -> None:
        with os.fdopen(self._answers, "rb", closefd=False) as answers:
            for answer in answers:
                self._received.put(json.loads(answer)["stop"])
        self._abandoned()
        self._received.put("")

    def _abandoned(self) -> None:
        if not self._done:
            log_event("search_gone", "the search is gone: the trial ends", severity="WARNING")
            os.kill(os.getpid(), signal.SIGTERM)


def _take_share(task: TrialTask) -> None:
    """Keeps to the trial's share of GPUs, and offers itself when memory runs out."""
    if task.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpus
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_SCORE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
