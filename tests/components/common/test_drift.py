"""False alarms are at most as frequent as stated; changes of the images are found."""

import numpy as np
import pytest

from imgpipe.components.common.drift import FALSE_ALARM_RATE, WINDOW, DriftGauge, load_sketch, make_sketch
from imgpipe.components.common.errors import MissingInputError

CLASSES, DIMENSIONS = 5, 64


def embeddings(draw, count, *, classes=CLASSES, shift=0.0, spread=1.0):
    """Returns embeddings as a network's: clusters, not negative, with heavy tails and correlated."""
    fixed = np.random.default_rng(99)
    centers = fixed.gamma(0.5, 1.0, (CLASSES + 1, DIMENSIONS))
    mixing = fixed.normal(size=(DIMENSIONS, DIMENSIONS)) / np.sqrt(DIMENSIONS)
    noise = draw.standard_t(5, (count, DIMENSIONS)) @ mixing * spread
    chosen = draw.choice(classes, count) if np.ndim(classes) else draw.integers(classes, size=count)
    return np.maximum(centers[chosen] + 0.5 * noise + shift, 0).astype(np.float32)


def alarm_rate(sketch, features, windows, draw):
    """Returns the fraction of random windows with an alarm."""
    counts = draw.multinomial(WINDOW, np.full(len(features), 1 / len(features)), size=windows)
    tests = [sketch.test(mean[None]) for mean in counts @ features / WINDOW]
    return np.mean([p_value <= FALSE_ALARM_RATE for _, p_value in tests])


@pytest.mark.parametrize("images", [200, 550])
def test_of_10000_clean_windows_at_most_the_stated_rate_is_an_alarm(images):
    draw = np.random.default_rng(0)
    sketch = make_sketch(embeddings(draw, images))
    # Of images that the evaluation does not have.
    features = sketch.features(embeddings(draw, 2000))
    assert alarm_rate(sketch, features, 10_000, draw) <= FALSE_ALARM_RATE


@pytest.mark.parametrize(
    "change", [{"shift": 0.15}, {"spread": 1.7}, {"classes": [0, 1, 2, 3, 4, 5, 5, 5]}, {"classes": [0, 1]}]
)
def test_a_change_of_the_images_is_found_in_one_window(change):
    draw = np.random.default_rng(1)
    sketch = make_sketch(embeddings(draw, 550))
    features = sketch.features(embeddings(draw, 2000, **change))
    assert alarm_rate(sketch, features, 200, draw) > 0.9


def test_the_gauge_tests_every_window_of_one_version(tmp_path):
    draw = np.random.default_rng(2)
    first, second = (make_sketch(embeddings(draw, 300), seed) for seed in (0, 1))
    windows = []
    gauge = DriftGauge(lambda *window: windows.append(window))
    served = embeddings(draw, 500)
    for begin in range(0, 450, 30):
        gauge.add(first, served[begin : begin + 30])
    features = first.features(served)
    expected = [first.test(features[begin : begin + WINDOW]) for begin in (0, WINDOW)]
    np.testing.assert_allclose(windows, expected, rtol=1e-4)
    # 50 images are waiting, which do not count for another version.
    gauge.add(second, served[:WINDOW])
    np.testing.assert_allclose(windows[2:], [second.test(second.features(served[:WINDOW]))], rtol=1e-4)
    first.save(tmp_path)
    loaded = load_sketch(tmp_path)
    assert loaded.test(loaded.features(served)) == first.test(features)


def test_the_p_value_falls_with_the_distance_and_the_sketch_is_small(tmp_path):
    sketch = make_sketch(embeddings(np.random.default_rng(3), 300))
    assert (np.diff(sketch.distances) > 0).all()
    features = np.ones((WINDOW, len(sketch.mean)))
    p_values = [sketch.test(features * size)[1] for size in (0, 0.05, 0.1, 10)]
    assert p_values == sorted(p_values, reverse=True)
    assert (p_values[0], p_values[-1]) == (1, pytest.approx(0.001))
    sketch.save(tmp_path)
    assert (tmp_path / "drift.npz").stat().st_size < 10_000


def test_without_enough_images_or_variance_there_is_no_sketch(tmp_path):
    draw = np.random.default_rng(4)
    assert make_sketch(embeddings(draw, 199)) is None
    assert make_sketch(np.ones((300, 8), np.float32)) is None
    assert load_sketch(tmp_path) is None
    (tmp_path / "drift.npz").write_bytes(b"damaged")
    with pytest.raises(MissingInputError, match="cannot read"):
        load_sketch(tmp_path)
