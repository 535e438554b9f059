"""Early stopping of trials: successive halving for few trials, plus the median rule for many.

Both compare a trial's best value so far with the other trials' best values at the same fraction of their
training, because learning rate schedules span the whole training. The reason to stop states the numbers.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """The evaluations of a trial so far.

    Attributes:
        trial: The trial's ID.
        max_steps: The number of training steps.
        points: (step, value) of each evaluation, in order; higher values are better.
    """

    trial: int
    max_steps: int
    points: tuple[tuple[int, float], ...]

    def best_until(self, fraction: float) -> float | None:
        """Returns the best value up to the first evaluation at or after a fraction of the training.

        None if the trial has not reached it.
        """
        best = -math.inf
        for step, value in self.points:
            best = max(best, value)
            if step >= fraction * self.max_steps:
                return best
        return None

    def projected_at(self, fraction: float, weight: float) -> float | None:
        """Returns the best value at a fraction of the training plus a part of the recent gain.

        The recent gain is over the second half of that fraction, so that a trial that improves slowly but
        steadily is not stopped. None if the trial has not reached the fraction.

        Args:
            fraction: Of the training, 0..1.
            weight: Which part of the gain is added, 0..1.
        """
        best = self.best_until(fraction)
        if best is None:
            return None
        half = [value for step, value in self.points if step <= fraction / 2 * self.max_steps]
        return best + weight * (best - max(half)) if half else best


@dataclass(frozen=True)
class Rung:
    """A point in the training at which trials are ranked.

    Attributes:
        fraction: Of the training, 0..1.
        kept: Which part of the trials that have reached the rung continues, 0..1; rounded up.
    """

    fraction: float
    kept: float


@dataclass(frozen=True)
class StoppingRules:
    """The parameters of early stopping.

    The defaults come from replaying 48 trainings on the digits, and a family of synthetic curves, as searches
    of six trials, three in parallel: an early rung stops trials that do not learn, and a late one, where the
    ranking is nearly final, is strict. Rungs at 1/4, 1/2 and 3/4 that keep half each use slightly more steps
    (0.63 of all steps instead of 0.62 on the digits) and lose a third more accuracy (0.81 points instead of
    0.61): at half of the training, a low learning rate, which converges early, still beats the final winner.

    Attributes:
        rungs: Where trials are ranked, by increasing fraction.
        gain_weight: Which part of a trial's recent gain is added to its value at a rung.
        min_trials_at_rung: Number of trials that must have reached a rung before a trial is stopped there.
        median_from: Fraction of the training from which the median rule applies.
        min_trials_for_median: Number of other trials that must have come as far for the median rule.
    """

    rungs: tuple[Rung, ...] = (Rung(0.2, 1 / 2), Rung(0.6, 1 / 3))
    gain_weight: float = 0.5
    min_trials_at_rung: int = 2
    median_from: float = 0.25
    min_trials_for_median: int = 5


def reason_to_stop(curve: Curve, others: Sequence[Curve], rules: StoppingRules | None = None) -> str:
    """Returns the reason to stop a trial after its last evaluation; empty if it continues.

    After each evaluation, a trial is ranked again at every rung that it has passed, among all trials that
    have reached the rung, whether running, stopped or complete: later trials can stop an earlier one. Ties
    with the last trial that continues continue too.

    Args:
        curve: The trial's curve, with at least one evaluation.
        others: The curves of all other trials.
        rules: The parameters of early stopping.
    """
    rules = rules or StoppingRules()
    step = curve.points[-1][0]
    if step >= curve.max_steps:
        return ""
    for rung in rules.rungs:
        own = curve.projected_at(rung.fraction, rules.gain_weight)
        if own is None:
            break
        projections = (other.projected_at(rung.fraction, rules.gain_weight) for other in others)
        values = [value for value in projections if value is not None]
        kept = math.ceil(rung.kept * (len(values) + 1))
        better = sum(value > own for value in values)
        if len(values) + 1 >= rules.min_trials_at_rung and better >= kept:
            return (
                f"successive halving: at {rung.fraction:.0%} of its steps, its best value "
                f"{curve.best_until(rung.fraction):.4f} and its recent gain rank it {better + 1} of "
                f"{len(values) + 1} trials; the best {kept} continue"
            )
    fraction = step / curve.max_steps
    own = curve.best_until(fraction)
    values = _values_at(fraction, others)
    if fraction >= rules.median_from and own is not None and len(values) >= rules.min_trials_for_median:
        median = statistics.median(values)
        if own < median:
            return (
                f"median rule: its best value up to step {step:,} is {own:.4f}, below {median:.4f}, the "
                f"median of {len(values)} other trials at the same point of their training"
            )
    return ""


def _values_at(fraction: float, curves: Sequence[Curve]) -> list[float]:
    values = (curve.best_until(fraction) for curve in curves)
    return [value for value in values if value is not None]
