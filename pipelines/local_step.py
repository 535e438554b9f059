"""Runs one step's command line in a process of its own and shows it."""

import subprocess
import sys
import time
from collections.abc import Sequence

from imgpipe.components.common.errors import InternalError, PipelineError
from imgpipe.components.common.log import parse_event
from imgpipe.pipelines.run_display import RunDisplay


class StepError(PipelineError):
    """The step's error, as the step told it; its exit code is the step's."""


def run_step(step: str, flags: Sequence[str], display: RunDisplay) -> None:
    """Runs ``python -m components.<step>`` and waits for its end; Ctrl-C ends both.

    Args:
        step: The step's folder.
        flags: Of its command line.
        display: Where to show it.

    Raises:
        StepError: if the step failed.
        InternalError: if it ended badly without a word.
    """
    started = time.monotonic()
    # The current folder may hold a folder `components` of the user's own.
    command = [sys.executable, "-P", "-m", f"imgpipe.components.{step}", *flags]
    failure = None
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with display:
            display.show({"event": "step_started", "step": step, "severity": "INFO"})
            try:
                for line in process.stdout:
                    event = parse_event(line)
                    if event is None:
                        last = line.strip() or last
                    elif event["event"] == "step_failed":
                        failure = event
                    else:
                        display.show(event)
            except KeyboardInterrupt:
                # The step got it too, and says that it can be started again.
                process.wait()
                failure = failure or {
                    "problem": f"{step} was interrupted",
                    "where": "",
                    "remedy": "start it again: it goes on",
                    "exit_code": 75,
                    "retry_can_help": True,
                }
            seconds = time.monotonic() - started
            if failure is None and process.wait() == 0:
                display.step_finished(step, seconds)
                return
            display.step_failed(step, seconds)
    if failure is None:
        raise InternalError(
            f"{step} ended with status {process.returncode} without a word{': ' if last else ''}{last}",
            remedy="if the machine ran out of memory, lower batch_size; otherwise report this",
        )
    error = StepError(failure["problem"], where=failure["where"], remedy=failure["remedy"])
    error.exit_code, error.retry_can_help = failure["exit_code"], failure["retry_can_help"]
    raise error
