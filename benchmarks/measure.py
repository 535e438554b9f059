"""Runs commands in turns and measures their time and memory."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parents[1]

Name = TypeVar("Name")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """Time and memory of one run of a command.

    Attributes:
        seconds: The whole run, including imports.
        peak_mb: The sum of the peak resident memory of its processes, in megabytes; 0 if it was not measured.
    """

    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class WorkersMeasured:
    """One run of a command that starts worker processes.

    Attributes:
        seconds: The whole run.
        largest_mb: The peak resident memory of the largest worker, in megabytes.
        read_bytes: What each worker has read.
    """

    seconds: float
    largest_mb: float
    read_bytes: tuple[int, ...]


def run_with_workers(command: Sequence[str], worker_module: str) -> WorkersMeasured:
    """Runs a Python command line (without the interpreter) and measures its worker processes.

    Args:
        command: The arguments of Python.
        worker_module: A part of the command line of each worker.

    Raises:
        RuntimeError: if it fails or starts no worker; with the end of its output.
    """
    peaks: dict[int, float] = {}
    read: dict[int, int] = {}

    def poll(pid: int) -> None:
        for child in _process_tree(pid):
            # A worker may be started through a shell, whose command line names it too.
            if worker_module in _proc_file(child, "cmdline") and "python" in _proc_file(child, "comm"):
                peaks[child] = max(_peak_of(child), peaks.get(child, 0.0))
                values = dict(line.split(": ") for line in _proc_file(child, "io").splitlines())
                read[child] = max(int(values.get("rchar", 0)), read.get(child, 0))

    seconds = _run_polled(command, poll)
    if not peaks:
        raise RuntimeError(f"{' '.join(command)} started no process with {worker_module}")
    return WorkersMeasured(seconds, max(peaks.values()), tuple(read.values()))


def run(command: Sequence[str], *, measure_memory: bool = True) -> Measured:
    """Runs a Python command line (without the interpreter).

    Args:
        command: The arguments of Python.
        measure_memory: Whether to poll the processes' memory, which takes a little time from them.

    Raises:
        RuntimeError: if it fails; with the end of its output.
    """
    # The kernel keeps each process's peak, so that none is missed between two polls. Not getrusage: it
    # includes the memory of the parent process.
    peaks: dict[int, float] = {}

    def poll(root: int) -> None:
        for pid in _process_tree(root):
            peaks[pid] = max(_peak_of(pid), peaks.get(pid, 0.0))

    seconds = _run_polled(command, poll if measure_memory else None)
    return Measured(seconds, sum(peaks.values()))


def _run_polled(command: Sequence[str], poll: Callable[[int], None] | None) -> float:
    """Returns the seconds of a run; ``poll`` is called with the process's id while it runs."""
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT
        )
        while poll is not None and process.poll() is None:
            poll(process.pid)
            time.sleep(0.02)
        process.wait()
        seconds = time.monotonic() - started
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return seconds


def _process_tree(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        # Any thread may have started a process.
        for children in Path("/proc", str(parent), "task").glob("*/children"):
            with suppress(OSError):
                pids += [int(child) for child in children.read_text().split()]
    return pids


def _proc_file(pid: int, name: str) -> str:
    """Returns a file of the kernel about a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _peak_of(pid: int) -> float:
    lines = [line for line in _proc_file(pid, "status").splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 / 1e6 if lines else 0.0


def in_turns(sides: Mapping[Name, Callable[[], Result]], repeats: int) -> dict[Name, list[Result]]:
    """Runs all sides in turns, ``repeats`` times, so that the machine's other load affects them equally.

    Each turn begins with another side: what one leaves behind affects the next one.
    """
    measured: dict[Name, list[Result]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(repeats):
        for name in order:
            measured[name].append(sides[name]())
        order.append(order.pop(0))
    return measured


def ratio(slow: Sequence[Measured], fast: Sequence[Measured]) -> float:
    """Returns how many times as long the slow side took: the median over the turns."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(slow, fast, strict=True))


def median_seconds(measured: Sequence[Measured]) -> float:
    """Returns the median time."""
    return statistics.median(run.seconds for run in measured)


def peak(measured: Sequence[Measured]) -> float:
    """Returns the largest peak memory of all runs, in megabytes."""
    return max(run.peak_mb for run in measured)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of text in columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_runs(measured: Mapping[int, Mapping[str, Sequence[Measured]]]) -> None:
    """Prints time, speed and memory; ``measured`` has the runs by number of rows (images) and side."""
    table = [
        (
            f"{rows:,}",
            side,
            f"{median_seconds(runs):.2f}",
            f"{rows / median_seconds(runs):,.0f}",
            f"{peak(runs):.0f}",
        )
        for rows, sides in measured.items()
        for side, runs in sides.items()
    ]
    print_table(("rows", "side", "seconds", "images/s", "peak MB"), table)


def print_result(**values: float) -> None:
    """Prints the results as the last line, one JSON object."""
    print(json.dumps({name: round(value, 4) for name, value in values.items()}))
