import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgpipe.components.evaluate.comparison import compare


def comparison_of(champion, challenger, **options):
    return compare(np.array(champion), np.array(challenger), **options)


def test_the_difference_of_the_accuracies_is_in_the_interval():
    champion, challenger = [True] * 60 + [False] * 40, [True] * 50 + [False] * 20 + [True] * 30
    found = comparison_of(champion, challenger)
    assert (found.champion_top_1_accuracy, found.challenger_top_1_accuracy) == (0.6, 0.8)
    assert found.difference == pytest.approx(0.2)
    assert (found.only_champion_right, found.only_challenger_right) == (10, 30)
    assert found.lower < 0.2 < found.upper
    # Normal theory: the difference's standard deviation is sqrt((40/100 - 0.2**2) / 100) = 0.06.
    assert found.lower == pytest.approx(0.2 - 1.96 * 0.06, abs=0.015)
    assert found.upper == pytest.approx(0.2 + 1.96 * 0.06, abs=0.015)


def test_the_interval_covers_the_true_difference_in_about_95_percent_of_cases():
    draw = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        champion, challenger = draw.random(300) < 0.7, draw.random(300) < 0.75
        found = comparison_of(champion, challenger, seed=seed)
        covered += found.lower <= 0.05 <= found.upper
    assert 0.90 <= covered / 200 <= 0.99


def test_equal_models_have_no_difference():
    found = comparison_of([True, False] * 10, [True, False] * 10)
    assert (found.difference, found.lower, found.upper) == (0.0, 0.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_models_flips_the_sign(pairs):
    champion, challenger = zip(*pairs, strict=True)
    comparison, swapped = comparison_of(champion, challenger), comparison_of(challenger, champion)
    assert comparison.difference == -swapped.difference
    assert comparison.lower <= comparison.difference <= comparison.upper
    assert comparison_of(champion, challenger) == comparison
