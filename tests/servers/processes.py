"""The processes that stand-ins start, each in a process group of its own."""

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path


def start_process(command, request="", **variables):
    """Starts a command with a text on its standard input, and more variables in its environment."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
    )
    with process.stdin:
        process.stdin.write(request)
    return process


def end_process(process, number=signal.SIGTERM):
    """Sends a signal to a process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def ending_processes(server):
    """Ends the processes of a server, ``server.processes``, with the block."""
    try:
        yield server
    finally:
        for process in server.processes.values():
            end_process(process, signal.SIGKILL)
