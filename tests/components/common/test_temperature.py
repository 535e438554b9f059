import numpy as np
import pytest

from imgpipe.components.common.temperature import (
    TEMPERATURE_SUMS,
    cross_fitted_probabilities,
    fit_temperature,
    logits_of,
    probabilities_of,
    temperature_sums,
)
from imgpipe.components.evaluate.calibration import compute_calibration


def drawn(temperature, *, examples=2000, classes=6, seed=0, multi_label=False):
    """Logits whose probabilities are true at the given temperature, and targets drawn from them."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2.5, (examples, classes))
    probabilities = probabilities_of(logits, 1.0, multi_label=multi_label)
    if multi_label:
        targets = draw.random(logits.shape) < probabilities
    else:
        targets = (draw.random((examples, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return logits * temperature, targets


def loss(logits, targets, temperature):
    probabilities = probabilities_of(logits, temperature, multi_label=targets.ndim == 2).clip(1e-300, 1)
    if targets.ndim == 2:
        return -np.log(np.where(targets, probabilities, 1 - probabilities)).mean()
    return -np.log(probabilities[np.arange(len(targets)), targets]).mean()


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [0.09, 0.4, 1.0, 1.7, 2.83, 9.0])
def test_the_temperature_minimizes_the_loss(temperature, multi_label):
    logits, targets = drawn(temperature, multi_label=multi_label)
    fitted = fit_temperature(temperature_sums(logits, targets).sum(axis=0))
    grid = fitted * np.exp(np.linspace(-0.2, 0.2, 201))
    best = grid[np.argmin([loss(logits, targets, value) for value in grid])]
    assert fitted == pytest.approx(best, rel=0.02)
    assert fitted == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_without_a_mistake_the_probabilities_stay_below_1(multi_label):
    logits, _ = drawn(1.0, examples=100, multi_label=multi_label)
    targets = logits > 0 if multi_label else logits.argmax(axis=1)
    fitted = fit_temperature(temperature_sums(logits, targets).sum(axis=0))
    assert 1 / 16 < fitted < 1
    assert probabilities_of(logits, fitted, multi_label=multi_label).max(axis=1).mean() < 0.999


def test_logits_worse_than_chance_get_the_highest_temperature():
    logits, _ = drawn(1.0)
    assert fit_temperature(temperature_sums(logits, logits.argmin(axis=1)).sum(axis=0)) == 16


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_equal_or_invalid_logits_get_temperature_1(value):
    with np.errstate(invalid="ignore"):
        sums = temperature_sums(np.full((5, 3), value), np.zeros(5, int))
    assert fit_temperature(sums.sum(axis=0)) == 1
    assert fit_temperature(np.zeros(TEMPERATURE_SUMS)) == 1


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits_are_recovered_from_the_probabilities(multi_label):
    logits, _ = drawn(1.0, multi_label=multi_label)
    probabilities = probabilities_of(logits, 1.5, multi_label=multi_label).astype(np.float32)
    recovered = logits_of(probabilities, 1.5, multi_label=multi_label)
    expected = logits if multi_label else logits - logits.max(axis=1, keepdims=True)
    found = recovered if multi_label else recovered - recovered.max(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_probabilities_of_0_and_1_have_finite_logits():
    for multi_label in (False, True):
        logits = logits_of(np.array([[0, 1]], np.float32), 3.0, multi_label=multi_label)
        assert np.isfinite(logits).all()
        assert logits[0, 0] < logits[0, 1]


def test_a_left_out_image_does_not_influence_its_own_probabilities():
    logits, targets = drawn(2.0, examples=40)
    changed = targets.copy()
    changed[7] = (targets[7] + 1) % 6
    before, after = (cross_fitted_probabilities(logits, values) for values in (targets, changed))
    np.testing.assert_array_equal(before[7::10], after[7::10])
    assert (before[8::10] != after[8::10]).any()


def test_cross_fitting_shows_the_error_on_other_images():
    """On few images, the error of probabilities fitted on the same images is too low on average."""
    other_logits, other_targets = drawn(3.0, examples=20_000, seed=99)
    same, crossed, other = [], [], []
    for seed in range(30):
        logits, targets = drawn(3.0, examples=30, seed=seed)
        fitted = fit_temperature(temperature_sums(logits, targets).sum(axis=0))
        same.append(loss(logits, targets, fitted))
        held_out = cross_fitted_probabilities(logits, targets)
        crossed.append(-np.log(held_out[np.arange(30), targets]).mean())
        other.append(loss(other_logits, other_targets, fitted))
    assert np.mean(same) < np.mean(other)
    assert np.mean(crossed) > np.mean(same)


def test_the_temperature_makes_probabilities_true_and_keeps_the_order():
    logits, targets = drawn(3.0, examples=5000)
    fitted = fit_temperature(temperature_sums(logits[:2500], targets[:2500]).sum(axis=0))
    before = probabilities_of(logits[2500:], 1.0, multi_label=False)
    after = probabilities_of(logits[2500:], fitted, multi_label=False)
    assert compute_calibration(targets[2500:], before).expected_calibration_error > 0.1
    assert compute_calibration(targets[2500:], after).expected_calibration_error < 0.03
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
