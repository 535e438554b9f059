"""When a trial is stopped before its end: successive halving on few trials, the median rule on many.

Both compare a trial's best value so far with that of the others when they were equally far, as shares of
their own training: learning rates fall along the whole of it. Whatever they decide is said in numbers.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """What a trial reported so far.

    Attributes:
        trial: Its number.
        max_steps: At which it ends.
        points: (step, value) of its evaluations, in order; the higher the value, the better.
    """

    trial: int
    max_steps: int
    points: tuple[tuple[int, float], ...]

    def best_until(self, share: float) -> float | None:
        """Returns the best value up to the first evaluation at or after a share of the training.

        None if the trial has not come so far.
        """
        best = -math.inf
        for step, value in self.points:
            best = max(best, value)
            if step >= share * self.max_steps:
                return best
        return None

    def prospect_at(self, share: float, weight: float) -> float | None:
        """Returns the best value at a share of the training, and of its latest gain a part on top.

        The gain is that over the second half of the way: a slow trial that still rises is not taken for a bad
        one. None if the trial has not come so far.

        Args:
            share: Of the training.
            weight: Which part of the gain is added.
        """
        best = self.best_until(share)
        if best is None:
            return None
        half = [value for step, value in self.points if step <= share / 2 * self.max_steps]
        return best + weight * (best - max(half)) if half else best


@dataclass(frozen=True)
class Rung:
    """Where trials are ranked.

    Attributes:
        share: Of a training, 0..1.
        kept: Which part of the trials that have come to it goes on, 0..1; rounded up.
    """

    share: float
    kept: float


@dataclass(frozen=True)
class StoppingRules:
    """When trials are stopped.

    The defaults were found by replaying 48 trainings on the digits, and a family of curves, as searches of
    six trials, three at a time: an early rung drops what does not learn, and a late one, where the ranks
    are nearly those of the end, is strict. Rungs at 1/4, 1/2 and 3/4 that keep half each use a little more
    steps (0.63 of all against 0.62 on the digits) and lose a third more accuracy (0.81 points against
    0.61): halfway a low learning rate, which converges early, looks better than the one that will win.

    Attributes:
        rungs: Where the better part of the trials goes on, by share.
        gain_weight: Which part of a trial's latest gain counts on top of its value at a rung.
        fewest_at_rung: Trials that must have come to a rung before one is stopped there.
        median_from: Share of a training from which the median rule holds.
        fewest_for_median: Other trials that must have come so far for the median rule.
    """

    rungs: tuple[Rung, ...] = (Rung(0.2, 1 / 2), Rung(0.6, 1 / 3))
    gain_weight: float = 0.5
    fewest_at_rung: int = 2
    median_from: float = 0.25
    fewest_for_median: int = 5


def reason_to_stop(curve: Curve, others: Sequence[Curve], rules: StoppingRules | None = None) -> str:
    """Returns why a trial is stopped after its last evaluation; empty if it goes on.

    A trial is ranked at every rung that it has passed, again and again, among all trials that have come to
    it, running, stopped and complete: one that came first is judged by those that followed. Trials with the
    value of the last one that goes on go on too.

    Args:
        curve: Of the trial; at least one evaluation.
        others: Of all other trials.
        rules: When to stop.
    """
    rules = rules or StoppingRules()
    step = curve.points[-1][0]
    if step >= curve.max_steps:
        return ""
    for rung in rules.rungs:
        own = curve.prospect_at(rung.share, rules.gain_weight)
        if own is None:
            break
        prospects = (other.prospect_at(rung.share, rules.gain_weight) for other in others)
        values = [value for value in prospects if value is not None]
        places = math.ceil(rung.kept * (len(values) + 1))
        better = sum(value > own for value in values)
        if len(values) + 1 >= rules.fewest_at_rung and better >= places:
            return (
                f"successive halving: at {rung.share:.0%} of its steps its best "
                f"{curve.best_until(rung.share):.4f} and its gain until then made it number {better + 1} of "
                f"{len(values) + 1} trials, of which the best {places} go on"
            )
    share = step / curve.max_steps
    own = curve.best_until(share)
    values = _values_at(share, others)
    if share >= rules.median_from and own is not None and len(values) >= rules.fewest_for_median:
        median = statistics.median(values)
        if own < median:
            return (
                f"median rule: its best up to step {step:,} is {own:.4f}, below {median:.4f}, the median of "
                f"{len(values)} other trials as far in their training"
            )
    return ""


def _values_at(share: float, curves: Sequence[Curve]) -> list[float]:
    found = (curve.best_until(share) for curve in curves)
    return [value for value in found if value is not None]
