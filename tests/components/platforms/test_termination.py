"""Only a run that was stopped ends its remote job; an evicted step leaves it to its next pod."""

import pytest

from imgpipe.components.common.errors import InterruptedRunError
from imgpipe.components.platforms.termination import end_job_if_stopped


class Terminated(BaseException):
    """What the step raises on SIGTERM."""


@pytest.mark.parametrize(
    ("error", "stopped", "ends"),
    [
        (KeyboardInterrupt, False, True),
        (Terminated, True, True),
        (Terminated, False, False),
        (ValueError, True, False),
        (None, True, False),
    ],
)
def test_only_a_stopped_run_ends_the_job(error, stopped, ends):
    ended = []

    def run():
        with end_job_if_stopped(
            "tune",
            "job 7",
            end=lambda: ended.append(True),
            is_stopped=lambda: stopped,
            by_hand="stop job 7",
        ):
            if error:
                raise error

    if error:
        with pytest.raises(error):
            run()
    else:
        run()
    assert bool(ended) == ends


def test_a_stopped_job_that_cannot_be_ended_is_reported_with_the_command_that_ends_it(capsys):
    def end():
        raise InterruptedRunError("the service did not respond")

    with (
        pytest.raises(Terminated),
        end_job_if_stopped("tune", "job 7", end=end, is_stopped=lambda: True, by_hand="stop job 7"),
    ):
        raise Terminated
    text = capsys.readouterr().out
    assert "job_left_running" in text
    assert "the service did not respond; job 7 may still be running. To end it: stop job 7" in text
