"""Shows the progress of a run where Python runs: in a notebook's cell, on a terminal, or as lines."""

import html
import time
from typing import Any

from rich.console import Console

from imgpipe.pipelines.run_display import RunDisplay, describe_figures, time_left

_SECONDS_BETWEEN_UPDATES = 0.5


def display(progress: bool, title: str = "") -> RunDisplay:
    """Prints a title and returns the display of a run's events; both are silent without ``progress``."""
    console = Console(stderr=True, quiet=not progress)
    if title:
        console.print(title, highlight=False, markup=False, soft_wrap=True)
    return NotebookDisplay(console) if console.is_jupyter and progress else RunDisplay(console)


class NotebookDisplay(RunDisplay):
    """Shows long work as one line of the cell's output that is updated in place.

    Args:
        console: A console whose output is shown in the notebook.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress_line: Any = None
        self._updated = 0.0

    def show(self, event: dict[str, Any]) -> None:
        if event["event"] != "progress":
            super().show(event)
            return
        now = time.monotonic()
        if now - self._updated >= _SECONDS_BETWEEN_UPDATES:
            self._updated = now
            self._update(_progress_text(event, self._evaluation))

    def step_finished(self, step: str, seconds: float) -> None:
        self._clear()
        super().step_finished(step, seconds)

    def step_failed(self, step: str, seconds: float, result: str = "failed") -> None:
        self._clear()
        super().step_failed(step, seconds, result)

    def _update(self, line: str) -> None:
        import IPython.display

        content = IPython.display.HTML(f"<pre>{line}</pre>" if line else "")  # type: ignore[no-untyped-call]
        if self._progress_line is None:
            self._progress_line = IPython.display.display(content, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._progress_line.update(content)

    def _clear(self) -> None:
        if self._progress_line is not None:
            self._update("")
            self._progress_line = None


def _progress_text(event: dict[str, Any], evaluation: str) -> str:
    done, total = event["done"], event["total"]
    bar, of_total = "", ""
    if total:
        bar = f'<progress value="{done}" max="{total}"></progress> '
        of_total = f" of {total:,}"
    text = f"{event['unit']}{describe_figures(event, evaluation)}{time_left(event)}"
    return f"  {event['step']:<9} {bar}{done:,}{of_total} {html.escape(text)}"
