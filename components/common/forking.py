"""Runs work in a copy of this process, which has imported TensorFlow already: its import takes seconds."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Their drivers do not document what happens when a process that has loaded them is copied.
_ACCELERATORS = ("dev/nvidiactl", "dev/kfd", "dev/accel*", "dev/vfio/[0-9]*")


def can_fork() -> bool:
    """Returns whether a process that has imported TensorFlow, and run no operation, can be copied here."""
    devices = (found for pattern in _ACCELERATORS for found in Path("/").glob(pattern))
    return sys.platform == "linux" and next(devices, None) is None


def has_run_operations() -> bool:
    """Returns whether TensorFlow has run an operation in this process: since then, a copy of it hangs.

    Importing TensorFlow starts no threads; its first operation does, and a copy does not have them.
    """
    module = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(module, "_context", None)
    return context is not None and bool(getattr(context, "_initialized", True))


def run_in_fork(work: Callable[[], None], output: Path) -> int:
    """Runs a function in a copy of this process and returns its exit code, negative for a signal.

    Args:
        work: The function; it may end the process with ``sys.exit``.
        output: The file for what it prints.
    """
    process = multiprocessing.get_context("fork").Process(target=_with_output, args=(work, output))
    process.start()
    try:
        process.join()
    finally:
        # If this process is interrupted while it waits.
        process.kill()
        process.join()
    assert process.exitcode is not None  # noqa: S101 - it has ended
    return process.exitcode


def _with_output(work: Callable[[], None], output: Path) -> None:
    with output.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    # They may have been replaced, e.g. in a notebook.
    sys.stdout = sys.stderr = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115 - until the end of the process
    work()
