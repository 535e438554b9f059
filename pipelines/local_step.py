"""Runs the command line of one step in its own process and shows its progress."""

import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from imgpipe.components.common.errors import InternalError, InterruptedRunError, reported_error
from imgpipe.components.common.log import json_environment, parse_event
from imgpipe.components.common.user_settings import without_user_settings
from imgpipe.pipelines.run_display import RunDisplay


class KeyboardInterruptError(InterruptedRunError, KeyboardInterrupt):
    """Ctrl-C: to programs an InterruptedRunError, to Python and notebooks a KeyboardInterrupt."""


def run_step(step: str, arguments: Mapping[str, Any], display: RunDisplay) -> None:
    """Runs ``python -m components.<step>`` and waits for its end; Ctrl-C ends both.

    Args:
        step: The name of the step's folder.
        arguments: Its arguments by name.
        display: Shows the progress.

    Raises:
        PipelineError: the step's error, if it failed.
        KeyboardInterruptError: after Ctrl-C.
        InternalError: if it failed without an error message.
    """
    started = time.monotonic()
    # -P keeps a user's folder `components` from hiding ours.
    command = [sys.executable, "-P", "-m", f"imgpipe.components.{step}"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    failure = None
    last_line = ""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=without_user_settings(json_environment()),
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with display:
            display.show({"event": "step_started", "step": step, "severity": "INFO"})
            try:
                for line in process.stdout:
                    event = parse_event(line)
                    if event is None:
                        last_line = line.strip() or last_line
                    elif event["event"] == "step_failed":
                        failure = event
                    else:
                        display.show(event)
            except KeyboardInterrupt:
                # A terminal sends SIGINT to the step too; a notebook's stop button may not.
                process.terminate()
                process.wait()
                display.step_failed(step, time.monotonic() - started)
                raise KeyboardInterruptError(
                    f"{step} was interrupted", remedy="start it again: it resumes"
                ) from None
            seconds = time.monotonic() - started
            if failure is None and process.wait() == 0:
                display.step_finished(step, seconds)
                return
            display.step_failed(step, seconds)
    if failure is None:
        raise InternalError(
            f"{step} ended with status {process.returncode} without an error message"
            f"{': ' if last_line else ''}{last_line}",
            remedy="if the machine ran out of memory, use one with more; otherwise report this",
        )
    raise reported_error(failure)
