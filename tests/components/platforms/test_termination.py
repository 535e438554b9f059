import pytest

from imgpipe.components.platforms.termination import end_job_if_cancelled


class Terminated(BaseException):
    """What the step raises on SIGTERM."""


@pytest.mark.parametrize(
    ("error", "cancelled", "ends"),
    [
        (KeyboardInterrupt, False, True),
        (Terminated, True, True),
        (Terminated, False, False),
        (ValueError, True, False),
        (None, True, False),
    ],
)
def test_only_a_cancellation_ends_the_job(error, cancelled, ends):
    ended = []

    def run():
        with end_job_if_cancelled(
            "tune",
            "job 7",
            end=lambda: ended.append(True),
            is_cancelled=lambda: cancelled,
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
