"""Runs commands side by side and measures their time and memory."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """What one run of a command took.

    Attributes:
        seconds: From its start to its end, loading included.
        peak_mb: The peak resident memory of its processes together, in megabytes.
    """

    seconds: float
    peak_mb: float


def run(command: Sequence[str]) -> Measured:
    """Runs a Python command line (without the interpreter) and waits for its end.

    Raises:
        RuntimeError: if it fails; with the end of its output.
    """
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT
        )
        # The peak of each process, kept by the system, so that none is missed between two looks. Not
        # getrusage: it counts what the process that started it took.
        peaks: dict[int, float] = {}
        while process.poll() is None:
            for number in _family(process.pid):
                peaks[number] = max(_peak_of(number), peaks.get(number, 0.0))
            time.sleep(0.02)
        seconds = time.monotonic() - started
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return Measured(seconds, sum(peaks.values()))


def _family(process: int) -> list[int]:
    """Returns a process and all that descend from it."""
    found = [process]
    for number in found:
        try:
            text = Path(f"/proc/{number}/task/{number}/children").read_text()
        except OSError:
            continue
        found += [int(child) for child in text.split()]
    return found


def _peak_of(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 / 1e6 if lines else 0.0


def in_turns(sides: Mapping[str, Callable[[], Measured]], repeats: int) -> dict[str, list[Measured]]:
    """Runs every side ``repeats`` times, one after the other in turns, so that both meet the same machine."""
    measured: dict[str, list[Measured]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            measured[name].append(side())
    return measured


def ratio(slow: Sequence[Measured], fast: Sequence[Measured]) -> float:
    """Returns the median over the turns of how many times as long the slow side took."""
    return statistics.median(one.seconds / other.seconds for one, other in zip(slow, fast, strict=True))


def median_seconds(measured: Sequence[Measured]) -> float:
    """Returns the median time."""
    return statistics.median(one.seconds for one in measured)


def peak(measured: Sequence[Measured]) -> float:
    """Returns the largest memory of all runs, in megabytes."""
    return max(one.peak_mb for one in measured)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of text in columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_result(**values: float) -> None:
    """Prints the last line: one JSON object."""
    print(json.dumps({name: round(value, 3) for name, value in values.items()}))
