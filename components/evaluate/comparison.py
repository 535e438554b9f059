"""The difference between champion and challenger on the same images, with a confidence interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """Two models' top-1 accuracy on the same examples.

    Attributes:
        champion_top_1_accuracy: Accuracy of the model that currently serves.
        challenger_top_1_accuracy: Accuracy of the new model.
        difference: Challenger minus champion.
        lower: Lower end of the 95% confidence interval of the difference.
        upper: Upper end of the interval.
        only_champion_right: Number of examples that only the champion predicts correctly.
        only_challenger_right: Number of examples that only the challenger predicts correctly.
        examples: Total number of examples.
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
    champion_correct: NDArray[np.bool_], challenger_correct: NDArray[np.bool_], *, seed: int = 0
) -> Comparison:
    """Compares two models by whether their predictions for the same examples are correct.

    The interval is the percentile bootstrap over examples (Efron, 1979) with 10,000 resamples. Each example
    counts as -1, 0 or 1, so resampling n examples with replacement is sampling the three counts from a
    multinomial distribution. With few examples, or if one model is never the only correct one, the interval
    is too narrow.

    Args:
        champion_correct: bool [examples], whether the champion's prediction is correct; at least one example.
        challenger_correct: bool [examples], whether the challenger's prediction is correct.
        seed: The seed of the resampling.
    """
    examples = len(champion_correct)
    worse = int(np.count_nonzero(champion_correct & ~challenger_correct))
    better = int(np.count_nonzero(challenger_correct & ~champion_correct))
    fractions = np.array([worse, better, examples - worse - better]) / examples
    resamples = np.random.default_rng(seed).multinomial(examples, fractions, size=_RESAMPLES)
    tail = 100 * (1 - CONFIDENCE) / 2
    lower, upper = np.percentile((resamples[:, 1] - resamples[:, 0]) / examples, [tail, 100 - tail])
    return Comparison(
        champion_top_1_accuracy=float(champion_correct.mean()),
        challenger_top_1_accuracy=float(challenger_correct.mean()),
        difference=(better - worse) / examples,
        lower=float(lower),
        upper=float(upper),
        only_champion_right=worse,
        only_challenger_right=better,
        examples=examples,
    )
