"""Label sets hold the true label with the stated probability, whatever the model and its calibration."""

import numpy as np
import pytest

from imgpipe.components.common.label_sets import (
    INTERVALS,
    interval_of,
    label_sets,
    lowest_scores,
    set_thresholds,
)
from imgpipe.components.common.temperature import probabilities_of

SPLITS = 20


def histogram(scores):
    return np.bincount(interval_of(scores), minlength=INTERVALS).astype(float)


def margins(logits, classes):
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, classes] = -np.inf
    return logits[rows, classes] - others.max(axis=1)


def drawn(skill, seed, examples=20_000, classes=8):
    """Logits of a model with the given skill, and the true classes."""
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, classes, examples)
    # Some images are harder than others.
    logits = draw.normal(0, 1, (examples, classes)) * draw.uniform(0.5, 2, (examples, 1))
    logits[np.arange(examples), targets] += skill
    return 3 * logits, targets


@pytest.mark.parametrize("skill", [0.0, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_coverage_over_20_splits_is_within_a_point_of_the_stated_one(skill, coverage):
    """Also for models that are right more often, or hardly ever."""
    logits, targets = drawn(skill, seed=1)
    held, sizes = [], []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(targets))
        known, new = order[:1000], order[1000:]
        scores = lowest_scores(histogram(margins(logits[known], targets[known]))[None], coverage)
        temperature = 2.5
        probabilities = probabilities_of(logits[new], temperature, multi_label=False).astype(np.float32)
        in_set = label_sets(
            probabilities, set_thresholds(scores, temperature, multi_label=False), multi_label=False
        )
        held.append(in_set[np.arange(len(new)), targets[new]].mean())
        sizes.append(in_set.sum(axis=1).mean())
    assert coverage - 0.01 <= np.mean(held) <= coverage + 0.01
    if skill == 6:
        assert np.mean(sizes) <= 1
    if skill == 0:
        assert np.mean(sizes) > 5


def test_each_label_of_a_multi_label_data_set_has_its_own_threshold():
    draw = np.random.default_rng(0)
    rates, skills = np.array([0.5, 0.1, 0.05]), np.array([4.0, 2.0, 0.5])
    targets = draw.random((20_000, 3)) < rates
    logits = draw.normal(0, 1, targets.shape) + skills * targets
    held = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(targets))
        known, new = order[:4000], order[4000:]
        histograms = np.array([histogram(logits[known, label][targets[known, label]]) for label in range(3)])
        thresholds = set_thresholds(lowest_scores(histograms, 0.9), 1.7, multi_label=True)
        probabilities = probabilities_of(logits[new], 1.7, multi_label=True).astype(np.float32)
        in_set = label_sets(probabilities, thresholds, multi_label=True)
        held.append([in_set[targets[new, label], label].mean() for label in range(3)])
    assert np.abs(np.mean(held, axis=0) - 0.9).max() <= 0.01


@pytest.mark.parametrize("multi_label", [False, True])
def test_with_too_few_images_every_label_is_in_the_set(multi_label):
    # 0.9 needs at least nine images.
    for count, is_enough in ((0, False), (8, False), (9, True)):
        scores = lowest_scores(histogram(np.full(count, 2.0))[None], 0.9)
        thresholds = set_thresholds(scores * (3 if multi_label else 1), 2.0, multi_label=multi_label)
        in_set = label_sets(np.array([[0.0, 0.001, 0.999]], np.float32), thresholds, multi_label=multi_label)
        assert in_set.all() == (not is_enough)


def test_the_threshold_is_not_above_the_scores_that_must_reach_it():
    scores = np.random.default_rng(0).normal(0, 30, 199)
    (lowest,) = lowest_scores(histogram(scores)[None], 0.9)
    # 180 of 199, since a 200th has any rank with equal probability.
    assert (scores >= lowest).sum() >= 180
    exact = np.sort(scores)[::-1][179]
    assert exact - 0.02 * abs(exact) - 0.02 <= lowest <= exact


def test_extreme_scores_and_probabilities_are_valid():
    assert interval_of(np.array([-1e30, -1e4, 0.0, 1e4, 1e30])).tolist() == [0, 0, INTERVALS // 2, 1023, 1023]
    (threshold,) = set_thresholds((1400.0,), 1 / 16, multi_label=False)
    in_set = label_sets(np.array([[1.0, 0.0], [0.5, 0.5]], np.float32), (threshold,), multi_label=False)
    assert in_set.tolist() == [[True, False], [False, False]]
