"""Structured logs: one JSON object per line on stdout, for grep, Cloud Logging and `imgpipe run`.

Google Cloud Logging parses the keys ``severity``, ``message`` and ``time`` in a container's output;
``event`` is the kind of line.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

Item = TypeVar("Item")


def log_event(event: str, message: str, *, severity: str = "INFO", **fields: Any) -> None:
    """Writes one structured line to stdout.

    Args:
        event: The kind of line, e.g. ``progress``; a constant, so that it can be searched for.
        message: The human-readable text.
        severity: INFO, WARNING or ERROR.
        **fields: JSON values; NaN and infinity, which JSON lacks, become null.
    """
    # A single write call, so that lines of several threads do not mix.
    sys.stdout.write(event_line(event, message, severity=severity, **fields))
    sys.stdout.flush()


def event_line(event: str, message: str, *, severity: str = "INFO", **fields: Any) -> str:
    """Returns the line that ``log_event`` writes, with its end."""
    line = {
        "severity": severity,
        "event": event,
        "message": message,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **{name: _finite(value) for name, value in fields.items()},
    }
    # A file name that is not UTF-8 would otherwise make the line unprintable.
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def log_result(step: str, message: str, **fields: Any) -> None:
    """Writes a step's result, which `imgpipe run` shows beside the step's name.

    Args:
        step: The pipeline step.
        message: A short line without the step's name, e.g. ``top-1 accuracy 0.9861 on 360 images``.
        **fields: JSON values.
    """
    log_event("step_result", f"{step}: {message}", step=step, result=message, **fields)


def parse_event(line: str) -> dict[str, Any] | None:
    """Returns the object that ``log_event`` wrote; None for any other line of output."""
    line = line.strip()
    if not line.startswith('{"severity"'):
        return None
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


class Progress:
    """Reports the progress of long work without flooding the log.

    Writes at most one line per second, and at most one line per percent of the elapsed time: short
    work shows progress immediately, and ten hours of training write about a thousand lines.

    Args:
        step: The pipeline step.
        total: The amount of work, in ``unit``; 0 when unknown.
        unit: The unit, in the plural: images, examples, steps.
        initial: The amount done before, e.g. by an interrupted run; not counted for the speed.
    """

    def __init__(self, step: str, total: int, unit: str, *, initial: int = 0) -> None:
        self._step = step
        self._total = total
        self._unit = unit
        self._initial = initial
        self._started = self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether ``update`` would write a line, to avoid computing expensive ``fields``."""
        return self._is_due(time.monotonic())

    def _is_due(self, now: float) -> bool:
        return now - self._last >= max(1.0, 0.01 * (now - self._started))

    def update(self, done: int, **fields: Any) -> None:
        """Writes a ``progress`` line with ``fields`` if one is due."""
        now = time.monotonic()
        if not self._is_due(now):
            return
        self._last = now
        seconds = now - self._started
        rate = (done - self._initial) / seconds if seconds > 0 else 0.0
        of_total = f" of {self._total:,}" if self._total else ""
        log_event(
            "progress",
            f"{self._step}: {done:,}{of_total} {self._unit}, {rate:,.1f} per second",
            step=self._step,
            done=done,
            total=self._total,
            unit=self._unit,
            per_second=round(rate, 3),
            **fields,
        )


def with_progress(items: Sequence[Item], step: str, unit: str) -> Iterator[Item]:
    """Yields the items and reports the progress."""
    progress = Progress(step, len(items), unit)
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(done)


@contextmanager
def timed(event: str, message: str, **fields: Any) -> Iterator[None]:
    """Logs ``event`` with the duration of the block in seconds, unless it raises."""
    started = time.monotonic()
    yield
    log_event(event, message, seconds=round(time.monotonic() - started, 3), **fields)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
