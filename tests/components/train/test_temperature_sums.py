import numpy as np

from imgpipe.components.common.temperature import temperature_sums
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.temperature_sums import class_sums, label_set_sums


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
