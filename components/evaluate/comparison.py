"""Champion and challenger on the same images: how much better or worse, and how sure that is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """Two models' top-1 accuracy on the same examples.

    Attributes:
        champion_top_1_accuracy: Of the model that serves now.
        challenger_top_1_accuracy: Of the new model.
        difference: Challenger less champion.
        lower: Lower end of the 95 % confidence interval of the difference.
        upper: Its upper end.
        only_champion_right: Examples that only the champion gets right.
        only_challenger_right: Examples that only the challenger gets right.
        examples: All of them.
    """

    champion_top_1_accuracy: float
    challenger_top_1_accuracy: float
    difference: float
    lower: float
    upper: float
    only_champion_right: int
    only_challenger_right: int
    examples: int


def compare(
    labels: NDArray[np.integer[Any]],
    champion: NDArray[np.floating[Any]],
    challenger: NDArray[np.floating[Any]],
    *,
    seed: int = 0,
) -> Comparison:
    """Compares two models' probabilities for the same examples.

    The interval is the percentile bootstrap over examples (Efron, 1979), 10,000 times. An example counts -1,
    0 or 1, so that drawing n examples with replacement is drawing the three counts from a multinomial
    distribution. On few examples, or when one model is never alone right, it is narrower than it should be.

    Args:
        labels: [examples], the true classes, 0..N-1; at least one.
        champion: [examples, N], probabilities.
        challenger: [examples, N], probabilities.
        seed: Of the resampling.
    """
    return compare_right(champion.argmax(axis=1) == labels, challenger.argmax(axis=1) == labels, seed=seed)


def compare_right(
    champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_], *, seed: int = 0
) -> Comparison:
    """Compares two models as ``compare`` does.

    Args:
        champion_right: bool [examples], whether the champion's answer is right.
        challenger_right: bool [examples], likewise of the challenger.
        seed: Of the resampling.
    """
    examples = len(champion_right)
    worse = int(np.count_nonzero(champion_right & ~challenger_right))
    better = int(np.count_nonzero(challenger_right & ~champion_right))
    shares = np.array([worse, better, examples - worse - better]) / examples
    drawn = np.random.default_rng(seed).multinomial(examples, shares, size=_RESAMPLES)
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile((drawn[:, 1] - drawn[:, 0]) / examples, [tail, 100 - tail])
    return Comparison(
        champion_top_1_accuracy=float(champion_right.mean()),
        challenger_top_1_accuracy=float(challenger_right.mean()),
        difference=(better - worse) / examples,
        lower=float(lower),
        upper=float(upper),
        only_champion_right=worse,
        only_challenger_right=better,
        examples=examples,
    )
