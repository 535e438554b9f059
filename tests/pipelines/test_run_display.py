"""The terminal output of a run."""

import io

import pytest
from rich.console import Console

from imgpipe.pipelines.run_display import RunDisplay


def event(kind, **fields):
    return {"severity": "INFO", "event": kind, "message": kind, "step": "train", **fields}


@pytest.fixture
def shown():
    output = io.StringIO()
    display = RunDisplay(Console(file=output, width=100))
    return display, output


def test_a_finished_step_is_one_line_with_time_and_result(shown):
    display, output = shown
    display.show(event("step_started"))
    display.show(event("step_result", result="accuracy 0.9 [not markup]"))
    display.step_finished("train", 12.34)
    assert output.getvalue() == "  train       12.3 s  accuracy 0.9 [not markup]\n"


def test_warnings_follow_the_line_and_many_are_counted(shown):
    display, output = shown
    display.show(event("step_started"))
    for number in range(8):
        display.show({**event("finding"), "severity": "WARNING", "message": f"warning {number}"})
    display.step_finished("train", 1)
    lines = output.getvalue().splitlines()
    assert lines[1:6] == [f"    ! warning {number}" for number in range(5)]
    assert lines[6:] == ["    ! and 3 more warnings"]


def test_warnings_of_one_step_are_not_shown_under_the_next(shown):
    display, output = shown
    display.show(event("step_started"))
    display.show({**event("finding"), "severity": "WARNING", "message": "beware"})
    display.step_finished("validate", 1)
    display.show(event("step_started"))
    display.step_finished("train", 1)
    assert output.getvalue().count("beware") == 1


def test_a_bar_is_drawn_on_a_terminal():
    output = io.StringIO()
    display = RunDisplay(Console(file=output, width=100, force_terminal=True))
    with display:
        display.show(event("step_started"))
        display.show(event("progress", done=50, total=200, unit="steps"))
    assert "50/200" in output.getvalue()


def test_progress_is_not_printed_without_a_terminal(shown):
    display, output = shown
    display.show(event("step_started"))
    for done in range(1000):
        display.show(event("progress", done=done, total=1000, unit="steps"))
    assert output.getvalue() == ""
