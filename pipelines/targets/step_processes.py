"""Runs the steps on this machine as forks of processes that have imported what steps need.

Importing TensorFlow takes three seconds of a processor, KFP and our own modules another half. They are
imported once per run, while the first steps run, instead of once per step. A step is still a separate
process, with its own memory and exit code: it begins as a copy of a process that has only imported modules.

A process with TensorFlow can be copied until it runs an operation: it has no threads before. That is not
known of the drivers of accelerators: with one of those, and outside of Linux, KFP starts each step as usual.
"""

import gc
import importlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

# What steps import: those of all images, and those of images with TensorFlow.
_MODULES = (
    "kfp.dsl.executor_main",
    "imgpipe.components.common.step",
    "imgpipe.components.preflight.preflight",
)
_TENSORFLOW_MODULES = ("imgpipe.components.train.train", "imgpipe.components.evaluate.evaluate")
_TENSORFLOW_IMAGE = re.compile(r"imgpipe-(train|serve-tools)\b")
# A run's process group gets them. A step handles them; the processes that it copies end with the runner.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StepProcesses:
    """Runs steps, one at a time; a context manager that ends its processes.

    Args:
        tensorflow_modules: What the steps of images with TensorFlow import.
    """

    def __init__(self, tensorflow_modules: Sequence[str] = _TENSORFLOW_MODULES) -> None:
        self._socket, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno()), *tensorflow_modules],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                # In a step, KFP has no parts that build pipelines.
                env={**os.environ, "_KFP_RUNTIME": "true"},
            )
        self._answers = self._socket.makefile("r", encoding="utf-8")

    def run(self, image: str, command: Sequence[str], environment: dict[str, str]) -> int:
        """Runs a step, which prints to stdout, and returns its exit status.

        Args:
            image: The step's image, which says whether it uses TensorFlow.
            command: KFP's command: a shell and its script, the step's code and its arguments.
            environment: Additional variables.
        """
        code = next(number for number, part in enumerate(command) if "ephemeral_component.py" in part) + 1
        request = {
            "tensorflow": bool(_TENSORFLOW_IMAGE.search(image)),
            "code": command[code],
            "arguments": command[code + 1 :],
            "environment": environment,
        }
        with suppress(BrokenPipeError):
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        # Without an answer the process was killed, e.g. for memory, and its step may run on.
        return int(self._answers.readline() or 1)

    def __enter__(self) -> "StepProcesses":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.close()
        self._socket.close()
        self._process.wait()


def main() -> None:
    """Runs the steps that are requested on the socket whose descriptor is the first argument."""
    # A signal that arrives while a step starts is delivered once the step has unblocked it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    connection = socket.socket(fileno=int(sys.argv[1]))
    _import(_MODULES)
    inner, outer = socket.socketpair()
    if tensorflow := os.fork():
        inner.close()
        request = _serve(connection, outer)
        outer.close()
        if request is None:
            os.kill(tensorflow, signal.SIGKILL)
            os.waitpid(tensorflow, 0)
    else:
        outer.close()
        connection.close()
        _import(sys.argv[2:])
        request = _serve(inner)
        inner.close()
    if request is not None:
        _run(request)


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        # The step imports it again, and reports the error.
        with suppress(Exception):
            importlib.import_module(module)
    # The garbage collector of a step leaves these objects alone: their memory stays shared.
    gc.freeze()


def _serve(connection: socket.socket, tensorflow: socket.socket | None = None) -> dict[str, Any] | None:
    """Answers each request with the exit status of its step, until there are no more; returns None.

    Each step is a fork of this process: in the fork, the function returns its request.

    Args:
        connection: Has one request per line.
        tensorflow: To the process that has imported TensorFlow; None = it is this one.
    """
    with connection, connection.makefile("r", encoding="utf-8") as requests:
        passed_on: IO[str] | None = tensorflow.makefile("r", encoding="utf-8") if tensorflow else None
        for line in requests:
            request = json.loads(line)
            if tensorflow is not None and passed_on is not None and request["tensorflow"]:
                tensorflow.sendall(line.encode())
                answer = passed_on.readline() or "1"
            elif child := os.fork():
                answer = str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            else:
                return dict(request)
            connection.sendall(answer.strip().encode() + b"\n")
    return None


def _run(request: dict[str, Any]) -> None:
    """Runs a step in this process as KFP's own command does; ends it as the step ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    # Otherwise all steps would draw the same numbers.
    random.seed()
    if "numpy" in sys.modules:
        importlib.import_module("numpy").random.seed()
    os.environ.update(request["environment"])
    from kfp.dsl import executor_main

    with tempfile.TemporaryDirectory(prefix="imgpipe-step-") as folder:
        code = Path(folder) / "ephemeral_component.py"
        code.write_text(request["code"], encoding="utf-8")
        sys.argv = [executor_main.__file__, "--component_module_path", str(code), *request["arguments"]]
        executor_main.executor_main()


if __name__ == "__main__":
    main()
