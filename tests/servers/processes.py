"""The processes that stand-ins start, each in a process group of its own."""

import json
import os
import signal
import subprocess
import sys
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


def start_pipeline(folder, text, parameters, **variables):
    """Starts a compiled pipeline in kfp.local; its files are in a new folder."""
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(text)
    request = {
        "pipeline": str(folder / "pipeline.yaml"),
        "parameters": parameters,
        "artifacts": str(folder / "artifacts"),
    }
    command = [sys.executable, "-m", "imgpipe.pipelines.targets.local"]
    return start_process(command, json.dumps(request), **variables)


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
