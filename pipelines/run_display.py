"""Shows a run on the terminal: one line a step, a bar for long work, warnings, the error."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from imgpipe.components.common.plural import plural

# Without a terminal there is no bar, but a line this often.
_SECONDS_BETWEEN_LINES = 15.0
# More warnings of a step than this are counted, not shown: the log and the report have them all.
_WARNINGS_SHOWN = 5


class RunDisplay:
    """Draws what the events of a run say.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._trials: dict[int, TaskID] = {}
        self._result = ""
        self._warnings: list[str] = []
        self._last_line = time.monotonic()

    def __enter__(self) -> "RunDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Draws one event."""
        kind = event["event"]
        if kind == "progress":
            self._show_progress(event)
        elif kind == "step_started":
            self._bar = self._progress.add_task(f"{event['step']:<9}", total=None, unit="")
            self._result = ""
            self._warnings = []
            self._last_line = time.monotonic()
        elif kind == "step_result":
            self._result = event["result"]
        elif kind.startswith("trial_"):
            self._show_trial(event)
        elif event["severity"] == "WARNING":
            self._warnings.append(event["message"])

    def step_finished(self, step: str, seconds: float) -> None:
        """Draws the line of a step that ended well, and its warnings."""
        self._remove_bar()
        self._line(f"  {step:<9} {seconds:6.1f} s  {self._result}", style=None)
        for message in self._warnings[:_WARNINGS_SHOWN]:
            self._line(f"    ! {message}", style="yellow")
        if (more := len(self._warnings) - _WARNINGS_SHOWN) > 0:
            self._line(f"    ! and {plural(more, 'more warning')}", style="yellow")

    def step_failed(self, step: str, seconds: float) -> None:
        """Draws the line of a step that failed."""
        self._remove_bar()
        self._line(f"  {step:<9} {seconds:6.1f} s  failed", style="red")

    def _show_progress(self, event: dict[str, Any]) -> None:
        if self._bar is not None:
            self._progress.update(
                self._bar,
                total=event["total"] or None,
                completed=event["done"],
                unit=event["unit"] + (f", best {event['best']:.4f}" if event.get("best") else ""),
            )
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._line(f"    {event['message']}", style=None)

    def _show_trial(self, event: dict[str, Any]) -> None:
        """Draws a bar for each trial of a tuning that runs, and a line when it has ended."""
        kind, trial = event["event"], event["trial"]
        if kind == "trial_started":
            values = ", ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in event["values"].items()
            )
            self._trials[trial] = self._progress.add_task(
                f"  trial {trial:<3} {values}",
                total=event["max_steps"],
                completed=event["steps"],
                unit="steps",
            )
        elif kind == "trial_evaluated" and trial in self._trials:
            best = f"steps, best {event['best']:.4f}"
            self._progress.update(self._trials[trial], completed=event["steps"], unit=best)
        elif kind in ("trial_finished", "trial_interrupted"):
            if trial in self._trials:
                self._progress.remove_task(self._trials.pop(trial))
            text = event["message"].removeprefix("tune: ")
            if event.get("stop_reason"):
                text += f" ({event['stop_reason']})"
            self._line(f"    {text}", style="yellow" if event["severity"] == "WARNING" else None)

    def _remove_bar(self) -> None:
        for task in self._trials.values():
            self._progress.remove_task(task)
        self._trials.clear()
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None

    def _line(self, text: str, *, style: str | None) -> None:
        # Paths and labels may look like rich's markup.
        self._console.print(escape(text), style=style, highlight=False, soft_wrap=True)
