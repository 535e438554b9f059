"""Logs on stdout: plain lines for people, or one JSON object per line for programs.

``IMGPIPE_LOG_FORMAT=json`` selects JSON: for Google Cloud Logging, which parses the keys ``severity``,
``message`` and ``time`` in a container's output, and for our own processes that read a step's events. Without
it, lines are at most 100 columns wide: Kubeflow's log viewer cuts longer lines off.
"""

import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from imgpipe.components.common.characters import escape_controls
from imgpipe.components.common.urls import redact_urls

Item = TypeVar("Item")

LOG_FORMAT_VARIABLE = "IMGPIPE_LOG_FORMAT"
JSON = "json"
# Marks the result of a step, and its failure, in plain lines.
RESULT, FAILED = "result: ", "failed"
_COLUMNS = 100
# Plain lines after the first one of an event.
_INDENT = "    "
# Of the rest of a line that was too long; odd, unlike the indentation of a manifest.
_CONTINUED = 7 * " "
_TIME_FORMAT = "%m-%d %H:%M:%S"
_PLAIN_EVENT = re.compile(r"\d\d-\d\d \d\d:\d\d:\d\d (?P<message>.*)")
_ignores_broken_pipe = False


def ignore_broken_pipe() -> None:
    """From now on, an event that cannot be written is dropped: the process must clean up all the same.

    On SIGTERM, KFP's launcher, which reads the output of a step, ends before the step does.
    """
    global _ignores_broken_pipe
    _ignores_broken_pipe = True


def log_event(event: str, message: str, *, severity: str = "INFO", **fields: Any) -> None:
    """Writes one event to stdout: a JSON object if ``IMGPIPE_LOG_FORMAT`` is ``json``, else plain lines.

    Args:
        event: The kind of line, e.g. ``progress``; a constant, so that it can be searched for.
        message: The human-readable text; secrets in URLs are replaced, and control characters.
        severity: INFO, WARNING or ERROR.
        **fields: JSON values; NaN and infinity, which JSON lacks, become null. Plain lines do not have them.
    """
    message = escape_controls(redact_urls(message))
    if is_json():
        text = event_line(event, message, severity=severity, **fields)
    else:
        text = plain_lines(event, message, severity=severity, **fields)
    # A single write call, so that lines of several threads do not mix.
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _ignores_broken_pipe:
            raise


def is_json() -> bool:
    """Returns whether programs read the log. The variable may have changed since the import."""
    return os.environ.get(LOG_FORMAT_VARIABLE) == JSON


def event_line(event: str, message: str, *, severity: str = "INFO", **fields: Any) -> str:
    """Returns an event as one line of JSON, with its end."""
    line = {
        "severity": severity,
        "event": event,
        "message": message,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **{name: _finite(value) for name, value in fields.items()},
    }
    # A file name that is not UTF-8 would otherwise make the line unprintable.
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def plain_lines(event: str, message: str, *, severity: str = "INFO", **fields: Any) -> str:
    """Returns an event as lines for people: its time (UTC) and message, at most 100 columns wide.

    The error of a step is a line each for the problem, where it is, and what to do.
    """
    now = datetime.now(UTC).strftime(_TIME_FORMAT)
    if event == "step_failed":
        # A remedy may contain a manifest.
        remedy, *manifest = fields["remedy"].splitlines() or [""]
        parts = {"problem": fields["problem"], "where": fields["where"], "what to do": remedy}
        texts = [f"{fields['step']}: {FAILED}"]
        texts += [f"{name}: {' '.join(text.splitlines())}" for name, text in parts.items() if text]
        texts += manifest
    else:
        mark = "" if severity == "INFO" else f"{severity.lower()}: "
        step, separator, rest = message.partition(": ")
        is_named = separator and step == fields.get("step", step) and step.isidentifier()
        mark = RESULT if event == "step_result" else mark
        texts = (f"{step}: {mark}{rest}" if is_named else mark + message).splitlines()
    first, *others = texts or [""]
    lines = _wrap(f"{now} {first}", "")
    for text in others:
        lines += _wrap(text, _INDENT)
    return "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace").decode()


def _wrap(text: str, indent: str) -> list[str]:
    """Returns lines; one that ends within a word, e.g. a long path, ends with a backslash."""
    wrapped: list[str] = []
    rest = re.sub(r"\s", " ", text).rstrip()
    # Hyphens are left alone: they are parts of names.
    for line in textwrap.wrap(
        rest, _COLUMNS - 1, initial_indent=indent, subsequent_indent=_CONTINUED, break_on_hyphens=False
    ):
        rest = rest[len(line) - len(_CONTINUED if wrapped else indent) :]
        wrapped.append(line + ("\\" if rest and not rest.startswith(" ") else ""))
        rest = rest.lstrip()
    return wrapped or [indent.rstrip()]


def own_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yields the lines that ``plain_lines`` wrote; those of other programs are left out."""
    is_own = False
    for line in lines:
        is_own = bool(_PLAIN_EVENT.fullmatch(line)) or (is_own and line.startswith(_INDENT))
        if is_own:
            yield line


def messages(lines: Iterable[str]) -> list[str]:
    """Returns the messages in a plain log, without their times; an error keeps its lines."""
    found: list[str] = []
    for line in own_lines(lines):
        started = _PLAIN_EVENT.fullmatch(line)
        if started:
            found.append(started["message"])
        elif len(line) - len(line.lstrip()) == len(_CONTINUED):
            is_in_word = found[-1].endswith("\\")
            found[-1] = found[-1][:-1] + line.strip() if is_in_word else f"{found[-1]} {line.strip()}"
        else:
            found[-1] += f"\n{line[len(_INDENT) :]}"
    return found


@contextmanager
def json_events() -> Iterator[None]:
    """Makes this process and those that it starts write JSON in the block, for a caller that parses it."""
    before = os.environ.get(LOG_FORMAT_VARIABLE)
    os.environ[LOG_FORMAT_VARIABLE] = JSON
    try:
        yield
    finally:
        if before is None:
            del os.environ[LOG_FORMAT_VARIABLE]
        else:
            os.environ[LOG_FORMAT_VARIABLE] = before


def json_environment() -> dict[str, str]:
    """Returns the environment of a process whose events the caller parses."""
    return {**os.environ, LOG_FORMAT_VARIABLE: JSON}


def log_result(step: str, message: str, **fields: Any) -> None:
    """Writes a step's result, which `imgpipe run` shows beside the step's name.

    Args:
        step: The pipeline step.
        message: A short line without the step's name, e.g. ``top-1 accuracy 0.9861 on 360 images``.
        **fields: JSON values.
    """
    result = escape_controls(message)
    log_event("step_result", f"{step}: {result}", step=step, result=result, **fields)


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
        self._initial = self._done = initial
        self._started = self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether ``update`` would write a line, to avoid computing expensive ``fields``."""
        return self._is_due(time.monotonic())

    def _is_due(self, now: float) -> bool:
        return now - self._last >= max(1.0, 0.01 * (now - self._started))

    def add(self, count: int) -> None:
        """Updates by the amount done since the last call."""
        self._done += count
        self.update(self._done)

    def update(self, done: int, **fields: Any) -> None:
        """Writes a ``progress`` line with ``fields`` if one is due."""
        now = time.monotonic()
        if not self._is_due(now):
            return
        self._last = now
        seconds = now - self._started
        rate = (done - self._initial) / seconds if seconds > 0 else 0.0
        of_total = f" of {self._total:,}" if self._total else ""
        speed = f"{1 / rate:,.1f} s each" if 0 < rate < 1 else f"{rate:,.1f} per second"
        log_event(
            "progress",
            f"{self._step}: {done:,}{of_total} {self._unit}, {speed}",
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
    for item in items:
        yield item
        progress.add(1)


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
