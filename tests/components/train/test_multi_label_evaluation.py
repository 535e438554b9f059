import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, f1_score

from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.label_bits import packed, unpacked, words_for
from imgpipe.components.train.multi_label_evaluation import (
    MultiLabelEvaluation,
    evaluation_of,
    multi_label_measure,
    multi_label_sums,
)


def answers(images=300, labels=7, seed=0):
    draw = np.random.default_rng(seed)
    targets = (draw.random((images, labels)) < np.linspace(0.05, 0.7, labels)).astype(np.float32)
    logits = draw.normal(0, 2, (images, labels)).astype(np.float32) + 1.5 * targets - 1
    return logits, targets


def evaluated(*batches):
    sums = sum(
        multi_label_sums(tf.constant(logits), tf.constant(targets), tf.constant(counted, tf.float32))
        .numpy()
        .astype(np.float64)
        for logits, targets, counted in batches
    )
    measure = multi_label_measure(batches[0][0].shape[1])
    assert sums.shape == (measure.sums,)
    return measure.evaluation(sums, 3, 0.5)


def test_the_figures_are_those_of_scikit_learn():
    logits, targets = answers()
    found = evaluated((logits, targets, np.ones(300)))
    assert isinstance(found, MultiLabelEvaluation)
    # The interval of a logit stands for it.
    assert found.mean_average_precision == pytest.approx(
        average_precision_score(targets, logits, average="macro"), abs=2e-3
    )
    assert found.f1 == pytest.approx(f1_score(targets, logits >= 0, average="micro"), abs=1e-6)
    labelled = targets.any(axis=1)
    right = targets[np.arange(300), logits.argmax(axis=1)]
    assert found.top_1_accuracy == pytest.approx(right[labelled].mean(), abs=1e-6)
    in_top = np.take_along_axis(targets, np.argsort(-logits, axis=1)[:, :5], axis=1).any(axis=1)
    assert found.top_5_accuracy == pytest.approx(in_top[labelled].mean(), abs=1e-6)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    loss = -np.log(np.where(targets == 1, probabilities, 1 - probabilities)).mean()
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert (found.step, found.train_loss) == (3, 0.5)


def test_batches_add_up_and_what_fills_a_batch_does_not_count():
    logits, targets = answers()
    whole = evaluated((logits, targets, np.ones(300)))
    counted = np.arange(200) < 180
    parts = evaluated(
        (logits[:120], targets[:120], np.ones(120)), (logits[100:], targets[100:], np.ones(200))
    )
    assert parts.mean_average_precision != whole.mean_average_precision
    cut = evaluated((logits[:120], targets[:120], np.ones(120)), (logits[120:], targets[120:], np.ones(180)))
    filled = evaluated(
        (logits[:120], targets[:120], np.ones(120)),
        (np.resize(logits[120:], (200, 7)), np.resize(targets[120:], (200, 7)), counted),
    )
    for one in (cut, filled):
        assert one.mean_average_precision == pytest.approx(whole.mean_average_precision, abs=1e-12)
        assert one.f1 == pytest.approx(whole.f1, abs=1e-12)
        assert one.loss == pytest.approx(whole.loss, rel=1e-6)
        assert one.top_1_accuracy == pytest.approx(whole.top_1_accuracy, abs=1e-9)


def test_a_model_that_guesses_gets_the_share_of_images_that_have_the_label():
    targets = np.array([[1.0], [0.0], [0.0], [0.0]], np.float32)
    found = evaluated((np.zeros((4, 1), np.float32), targets, np.ones(4)))
    assert found.mean_average_precision == pytest.approx(0.25)


def test_images_without_a_label_are_neither_right_nor_wrong():
    logits, targets = answers()
    targets[10:] = 0
    found = evaluated((logits, targets, np.ones(300)))
    right = targets[np.arange(10), logits[:10].argmax(axis=1)]
    assert found.top_1_accuracy == pytest.approx(right.sum() / targets[:10].any(axis=1).sum())
    nothing = evaluated((logits, 0 * targets, np.ones(300)))
    assert (nothing.top_1_accuracy, nothing.mean_average_precision, nothing.f1) == (0, 0, 0)


def test_a_tie_in_top_1_accuracy_goes_to_the_mean_average_precision():
    worse = MultiLabelEvaluation(1, 0.9, 1, 0.1, 0.1, 0.5, 0.5)
    better = MultiLabelEvaluation(2, 0.9, 1, 0.1, 0.1, 0.6, 0.5)
    assert better.standing > worse.standing
    assert MultiLabelEvaluation(2, 0.91, 1, 0.1, 0.1, 0.1, 0.5).standing > better.standing


def test_an_evaluation_comes_back_from_a_checkpoint_as_what_it_was():
    several = MultiLabelEvaluation(1, 0.9, 1, 0.1, 0.1, 0.5, 0.5)
    single = Evaluation(1, 0.9, 1, 0.1, 0.1)
    assert evaluation_of(vars(several)) == several
    assert evaluation_of(vars(single)) == single


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 200))))
def test_labels_come_back_from_their_bits(targets):
    there = tf.constant(targets, tf.float32)
    words = packed(there)
    assert words.shape == (len(targets), words_for(targets.shape[1]))
    np.testing.assert_array_equal(unpacked(words, targets.shape[1]).numpy(), there.numpy())
    np.testing.assert_array_equal(unpacked(packed(there[0]), targets.shape[1]).numpy(), there[0].numpy())
