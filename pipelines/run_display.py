"""Shows a run on the terminal: one line per step, a bar for long work, evaluations, warnings, the error."""

import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from imgpipe.components.common.characters import escape_controls
from imgpipe.components.common.plural import plural

# Without a terminal there is no bar, but a line this often.
_SECONDS_BETWEEN_LINES = 15.0
# More warnings of one kind in a step than this are counted, not shown: the log and the report have them all.
_SHOWN_PER_KIND = 3
# Evaluations follow each other at least by this part of the time since the step began, and by a second: a
# minute of training and a day of it have a screenful of lines each.
_PART_BETWEEN_EVALUATIONS = 0.05
# Events of severity INFO that are shown.
_SHOWN_EVENTS = ("resumed", "convert_structure", "convert_columns")


class RunDisplay:
    """Draws what the events of a run say.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=20),
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
        self._evaluation = ""
        self._warnings: Counter[str] = Counter()
        self._shown: set[str] = set()
        self._step_started = self._last_line = self._last_evaluation = time.monotonic()

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
            self._result = self._evaluation = ""
            self._warnings.clear()
            self._step_started = self._last_line = self._last_evaluation = time.monotonic()
        elif kind == "evaluation":
            self._show_evaluation(event)
        elif kind == "step_result":
            self._result = event["result"]
        elif kind.startswith("trial_"):
            self._show_trial(event)
        elif event["severity"] == "WARNING":
            self._show_warning(event)
        elif kind in _SHOWN_EVENTS:
            self._line(f"    {event['message']}", style=None)

    def step_finished(self, step: str, seconds: float) -> None:
        """Draws the line of a step that ended well."""
        self._end_step()
        self._line(f"  {step:<9} {seconds:6.1f} s  {self._result}", style=None)

    def step_failed(self, step: str, seconds: float, result: str = "failed") -> None:
        """Draws the line of a step that failed, or was interrupted."""
        self._end_step()
        self._line(f"  {step:<9} {seconds:6.1f} s  {result}", style="red")

    def stopping(self, *, can_kill: bool) -> None:
        """Draws a line when a training run is asked to stop; ``can_kill`` = a second signal kills it."""
        text = "stopping: the training writes a checkpoint after the current step"
        text += "; Ctrl-C again stops it now, without one" if can_kill else ""
        self._line(f"    {text}", style="yellow")

    def _end_step(self) -> None:
        """Removes the bar, and counts the warnings that were not shown."""
        self._remove_bar()
        for kind, count in self._warnings.items():
            if (more := count - _SHOWN_PER_KIND) > 0:
                name = kind.replace("_", " ")
                self._line(f"    ! {name}: {plural(more, 'more warning')} of this kind", style="yellow")

    def _show_warning(self, event: dict[str, Any]) -> None:
        """Draws a warning immediately, unless it has been shown, or there are many of its kind."""
        # Findings that are too many for the log are one event with their number.
        kind, count = event.get("kind", event["event"]), event.get("count")
        self._warnings[kind] += count or 1
        if count is None and self._warnings[kind] <= _SHOWN_PER_KIND and event["message"] not in self._shown:
            self._shown.add(event["message"])
            self._line(f"    ! {event['message']}", style="yellow")

    def _show_evaluation(self, event: dict[str, Any]) -> None:
        """Draws an evaluation of the training, if the last one was drawn some time ago."""
        self._evaluation = describe_evaluation(event)
        now = time.monotonic()
        if now - self._last_evaluation >= max(1.0, _PART_BETWEEN_EVALUATIONS * (now - self._step_started)):
            self._last_evaluation = self._last_line = now
            self._line(f"    step {event['training_step']:,}: {self._evaluation}", style=None)

    def _show_progress(self, event: dict[str, Any]) -> None:
        figures = describe_figures(event, self._evaluation)
        if self._bar is not None:
            self._progress.update(
                self._bar, total=event["total"] or None, completed=event["done"], unit=event["unit"] + figures
            )
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._line(f"    {event['message']}{figures}{time_left(event)}", style=None)

    def _show_trial(self, event: dict[str, Any]) -> None:
        """Draws a bar for each running trial of a search, and a line when it has ended."""
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
        self._console.print(escape(escape_controls(text)), style=style, highlight=False, soft_wrap=True)


def describe_evaluation(event: dict[str, Any]) -> str:
    """Returns the figures of an ``evaluation`` event, and those of the best one so far."""
    objective = "mean_average_precision" if "mean_average_precision" in event else "top_1_accuracy"
    name = objective.removeprefix("top_1_").replace("_", " ")
    text = f"validation loss {event['loss']:.4f}, {name} {event[objective]:.4f}"
    if event["best_step"] == event["training_step"]:
        return f"{text}, the best so far"
    return f"{text}, best {event['best']:.4f} at step {event['best_step']:,}"


def describe_figures(event: dict[str, Any], evaluation: str = "") -> str:
    """Returns the figures of a ``progress`` event and of the latest evaluation, each after a comma."""
    figures = [
        f"loss {event['loss']:.4f}" if event.get("loss") is not None else "",
        evaluation,
        f"best {event['best']:.4f}" if event.get("best") else "",
    ]
    return "".join(f", {figure}" for figure in figures if figure)


def time_left(event: dict[str, Any]) -> str:
    """Returns the time until a ``progress`` event's work is done, after a comma; empty if it is unknown."""
    if not event["total"] or not event.get("per_second"):
        return ""
    minutes, seconds = divmod(round((event["total"] - event["done"]) / event["per_second"]), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {hours}:{minutes:02}:{seconds:02} left"
