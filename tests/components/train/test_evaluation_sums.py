import numpy as np

from imgpipe.components.common.label_sets import INTERVALS, interval_of
from imgpipe.components.common.temperature import temperature_sums
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.evaluation_sums import (
    class_sums,
    label_set_sums,
    margin_histogram,
    positive_histograms,
)


def test_the_sums_of_the_graph_are_those_of_numpy_without_padding():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 4, (50, 7)).astype(np.float32)
    counted = (draw.random(50) < 0.8).astype(np.float32)
    for sums, targets, numpy_targets in (
        (class_sums, classes := draw.integers(0, 7, 50), classes),
        (label_set_sums, (labels := draw.random((50, 7)) < 0.3).astype(np.float32), labels),
    ):
        found = tf.function(sums, autograph=False)(
            tf.constant(logits), tf.constant(targets), tf.constant(counted)
        )
        expected = temperature_sums(logits, numpy_targets)[counted > 0].sum(axis=0)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def counted_in(scores):
    return np.bincount(interval_of(scores), minlength=INTERVALS)


def test_the_histograms_of_the_graph_are_those_of_numpy_without_padding():
    draw = np.random.default_rng(0)
    scales = np.array([0.1, 3.0, 100.0, 1e6])
    logits = (draw.normal(size=(400, 5)) * scales[np.arange(400) % 4, None]).astype(np.float32)
    classes, has_label = draw.integers(0, 5, 400), draw.random((400, 5)) < 0.3
    counted = draw.random(400) < 0.8

    def run(function, targets):
        return tf.function(function, autograph=False)(
            tf.constant(logits), tf.constant(targets), tf.constant(counted, tf.float32)
        ).numpy()

    others = logits.copy()
    others[np.arange(400), classes] = -np.inf
    scores = (logits[np.arange(400), classes] - others.max(axis=1))[counted]
    found = run(margin_histogram, classes)
    assert found.sum() == counted.sum()
    # Rounding may move a score into the next interval.
    assert np.abs(found.cumsum() - counted_in(scores).cumsum()).max() <= 1
    found = run(positive_histograms, has_label.astype(np.float32)).reshape(5, INTERVALS)
    for label in range(5):
        expected = counted_in(logits[counted & has_label[:, label], label])
        assert np.abs(found[label].cumsum() - expected.cumsum()).max() <= 1
