"""The time budget of a search on one machine: when no further trial starts, and how long a trial may take."""

import math
import time

# Each of the first so many trials gets an equal part of the budget; early stopping leaves time for others.
_PLANNED_TRIALS = 4


class TimeBudget:
    """Divides the time of a search among its trials.

    Args:
        seconds: The whole time, from now on; 0 = no limit.
        trials: The largest number of trials.
        parallel: How many run at a time.
    """

    def __init__(self, seconds: float, trials: int, parallel: int) -> None:
        self._end = time.monotonic() + seconds if seconds else math.inf
        self._share = seconds / math.ceil(min(trials, max(parallel, _PLANNED_TRIALS)) / parallel)
        self._taken: list[float] = []

    @property
    def _seconds_left(self) -> float:
        return self._end - time.monotonic()

    def trial_took(self, seconds: float) -> None:
        """Records the duration of a trial that has ended."""
        self._taken.append(seconds)

    def allows_another(self, *, has_running: bool) -> bool:
        """Whether a trial as long as the mean of those before still fits; the first one always does."""
        if not self._taken:
            return not has_running or self._seconds_left > 0
        return self._seconds_left >= sum(self._taken) / len(self._taken)

    def seconds_for_trial(self, *, is_share: bool) -> float:
        """Returns the time of a trial that starts now.

        Args:
            is_share: At most an equal part of the budget, instead of all the time that is left.
        """
        left = max(1.0, self._seconds_left)
        return min(left, self._share) if is_share else left
