"""The terminal output of a run."""

import io

import pytest
from rich.console import Console

from imgpipe.pipelines.run_display import RunDisplay


def event(name, **fields):
    return {"severity": "INFO", "event": name, "message": name, "step": "train", **fields}


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


def warning(message, **fields):
    return {**event("finding", **fields), "severity": "WARNING", "message": message}


def evaluation(step, accuracy, best_step, best):
    return event(
        "evaluation", training_step=step, loss=0.5, top_1_accuracy=accuracy, best_step=best_step, best=best
    )


def test_a_warning_is_shown_immediately_and_once_in_a_run(shown):
    display, output = shown
    for _ in range(2):
        display.show(event("step_started"))
        display.show(warning("beware of [markup]"))
        assert output.getvalue().splitlines()[0] == "    ! beware of [markup]"
        display.step_finished("train", 1)
    assert output.getvalue().count("beware") == 1


def test_many_warnings_of_one_kind_are_one_row_with_their_number(shown):
    display, output = shown
    display.show(event("step_started"))
    display.show(warning("another", kind="few_images"))
    for number in range(20):
        display.show(warning(f"warning {number}", kind="equal_images"))
    # The step does not log all of them.
    display.show(warning("980 more findings of kind equal_images", kind="equal_images", count=980))
    display.step_finished("validate", 1)
    assert output.getvalue().splitlines()[:-1] == [
        "    ! another",
        *(f"    ! warning {number}" for number in range(3)),
        "    ! equal images: 997 more warnings of this kind",
    ]


def test_warnings_are_counted_in_each_step_and_in_one_that_fails(shown):
    display, output = shown
    for step in ("convert", "validate"):
        display.show(event("step_started"))
        for number in range(4):
            display.show(warning(f"{step} {number}"))
        display.step_failed(step, 1)
    assert output.getvalue().count("finding: 1 more warning of this kind") == 2


def test_evaluations_are_shown_with_the_best_so_far(shown, monkeypatch):
    display, output = shown
    clock = [0.0]
    monkeypatch.setattr("imgpipe.pipelines.run_display.time.monotonic", lambda: clock[0])
    display.show(event("step_started"))
    for step, accuracy, best_step, best in ((10, 0.5, 10, 0.5), (20, 0.75, 20, 0.75), (30, 0.5, 20, 0.75)):
        clock[0] += 10
        display.show(evaluation(step, accuracy, best_step, best))
    # Too early after the one before.
    display.show(evaluation(40, 0.8, 40, 0.8))
    assert output.getvalue().splitlines() == [
        "    step 10: validation loss 0.5000, accuracy 0.5000, the best so far",
        "    step 20: validation loss 0.5000, accuracy 0.7500, the best so far",
        "    step 30: validation loss 0.5000, accuracy 0.5000, best 0.7500 at step 20",
    ]


def test_long_work_without_a_terminal_prints_loss_accuracy_and_the_time_left(shown, monkeypatch):
    display, output = shown
    clock = [0.0]
    monkeypatch.setattr("imgpipe.pipelines.run_display.time.monotonic", lambda: clock[0])
    display.show(event("step_started"))
    display.show(evaluation(10, 0.5, 10, 0.5))
    clock[0] += 20
    progress = event("progress", done=20, total=200, unit="steps", per_second=0.5, loss=0.25)
    display.show({**progress, "message": "train: 20 of 200 steps"})
    assert output.getvalue() == (
        "    train: 20 of 200 steps, loss 0.2500, validation loss 0.5000, accuracy 0.5000, the best so far, "
        "0:06:00 left\n"
    )


def test_the_step_from_which_a_training_resumes_is_shown(shown):
    display, output = shown
    display.show(event("step_started"))
    display.show({**event("resumed"), "message": "train: resuming from the checkpoint of step 21 of 50"})
    assert output.getvalue() == "    train: resuming from the checkpoint of step 21 of 50\n"


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
