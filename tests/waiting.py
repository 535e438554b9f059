"""Waiting for another process or thread."""

import time


def wait_until(condition, seconds=60, *, process=None, pause=0.02, says=lambda: ""):
    """Returns the first true value of a condition.

    Args:
        condition: Is called again and again.
        seconds: After these the test fails, with the text that ``says`` returns.
        process: If it ends before, the test fails with its output.
        pause: Seconds between two calls.
        says: Returns what is the case instead.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert process is None or process.poll() is None, (process.stdout or process.stderr).read()
        assert time.monotonic() < end, says()
        time.sleep(pause)
    return value
