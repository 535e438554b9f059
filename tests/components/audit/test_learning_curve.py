"""Whether more images would help."""

import numpy as np
import pytest

from imgpipe.components.audit.learning_curve import extrapolate, forecast, learning_curves

SIZES = np.array([100.0, 200, 300, 400, 600, 800])


@pytest.fixture(scope="module")
def features():
    """Features of an easy class, two that overlap, and one with few images, and their classes."""
    draw = np.random.default_rng(0)
    classes = np.repeat(np.arange(4), [80, 80, 80, 5])
    centers = np.array([[4.0], [0.0], [0.9], [-4.0]]) * draw.normal(0, 1, 20) / 3
    return (centers[classes] + draw.normal(0, 1, (len(classes), 20))).astype(np.float32), classes


def test_a_power_law_is_continued():
    assert extrapolate(SIZES, 1 - (0.1 + 2 * SIZES**-0.5), 1600) == pytest.approx(0.85, abs=1e-3)


def test_more_images_never_harm_and_no_accuracy_exceeds_one():
    assert extrapolate(SIZES, np.linspace(0.9, 0.8, 6), 1600) == pytest.approx(0.85)
    assert extrapolate(SIZES, np.linspace(0.5, 0.999, 6), 1e9) <= 1


def test_noise_widens_the_interval():
    curve = 1 - SIZES**-0.5
    draw = np.random.default_rng(0)
    widths = [
        np.diff(forecast(SIZES, curve + draw.normal(0, noise, (12, 6)), 1600)[1:])[0]
        for noise in (1e-4, 0.02)
    ]
    assert widths[0] < 0.01 < widths[1]


def test_the_labels_that_overlap_have_lower_curves_that_gain(features):
    curves = learning_curves(*features, ["easy", "a", "b", "rare"])
    assert [curve.name for curve in curves] == ["", "easy", "a", "b"]
    by_name = {curve.name: curve for curve in curves}
    assert by_name["easy"].points[-1][1] > 0.95 > max(by_name["a"].points[-1][1], by_name["b"].points[-1][1])
    assert all(curve.lower <= curve.forecast <= curve.upper for curve in curves)


def test_copies_do_not_raise_the_accuracy(features):
    """A copy of an image with a random label is not learned from to recognize the other one."""
    draw = np.random.default_rng(1)
    images = np.repeat(draw.normal(size=(100, 20)), 2, axis=0).astype(np.float32)
    classes = np.repeat(draw.integers(0, 2, 100), 2)
    groups = [(index, index + 1) for index in range(0, 200, 2)]
    together, apart = (
        learning_curves(images, classes, "ab", known)[0].points[-1][1] for known in (groups, ())
    )
    assert together < 0.65 < apart


def test_a_few_images_have_no_curve(features):
    assert learning_curves(features[0][:20], features[1][:20], ["a", "b", "c", "d"]) == []
