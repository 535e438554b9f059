import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.multi_label_evaluation import (
    MultiLabelEvaluation,
    evaluation_of,
    multi_label_measure,
)


def predictions(images=300, labels=7, seed=0):
    draw = np.random.default_rng(seed)
    targets = (draw.random((images, labels)) < np.linspace(0.05, 0.7, labels)).astype(np.float32)
    logits = draw.normal(0, 2, (images, labels)).astype(np.float32) + 1.5 * targets - 1
    return logits, targets


def evaluate(*batches):
    measure = multi_label_measure(batches[0][0].shape[1])
    sums = sum(
        measure.sums(tf.constant(logits), tf.constant(targets), tf.constant(counted, tf.float32))
        .numpy()
        .astype(np.float64)
        for logits, targets, counted in batches
    )
    assert sums.shape == (measure.size,)
    return measure.evaluation(sums, 3, 0.5, 0.9)


def test_metrics_agree_with_scikit_learn():
    logits, targets = predictions()
    evaluation = evaluate((logits, targets, np.ones(300)))
    assert isinstance(evaluation, MultiLabelEvaluation)
    # Within the precision of the intervals.
    assert evaluation.mean_average_precision == pytest.approx(
        average_precision_score(targets, logits, average="macro"), abs=2e-3
    )
    assert evaluation.f1 == pytest.approx(f1_score(targets, logits >= 0, average="micro"), abs=1e-6)
    labeled = targets.any(axis=1)
    correct = targets[np.arange(300), logits.argmax(axis=1)]
    assert evaluation.top_1_accuracy == pytest.approx(correct[labeled].mean(), abs=1e-6)
    in_top = np.take_along_axis(targets, np.argsort(-logits, axis=1)[:, :5], axis=1).any(axis=1)
    assert evaluation.top_5_accuracy == pytest.approx(in_top[labeled].mean(), abs=1e-6)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    loss = -np.log(np.where(targets == 1, probabilities, 1 - probabilities)).mean()
    assert evaluation.loss == pytest.approx(loss, rel=1e-5)
    assert (evaluation.step, evaluation.train_loss) == (3, 0.5)


def test_batches_add_up_and_padding_does_not_count():
    logits, targets = predictions()
    whole = evaluate((logits, targets, np.ones(300)))
    first = (logits[:120], targets[:120], np.ones(120))
    overlapping = evaluate(first, (logits[100:], targets[100:], np.ones(200)))
    assert overlapping.mean_average_precision != whole.mean_average_precision
    divided = evaluate(first, (logits[120:], targets[120:], np.ones(180)))
    padded = evaluate(
        first,
        (np.resize(logits[120:], (200, 7)), np.resize(targets[120:], (200, 7)), np.arange(200) < 180),
    )
    for evaluation in (divided, padded):
        assert evaluation.mean_average_precision == pytest.approx(whole.mean_average_precision, abs=1e-12)
        assert evaluation.f1 == pytest.approx(whole.f1, abs=1e-12)
        assert evaluation.loss == pytest.approx(whole.loss, rel=1e-6)
        assert evaluation.top_1_accuracy == pytest.approx(whole.top_1_accuracy, abs=1e-9)


def test_the_mean_average_precision_of_guessing_is_the_fraction_of_images_with_the_label():
    targets = np.array([[1.0], [0.0], [0.0], [0.0]], np.float32)
    evaluation = evaluate((np.zeros((4, 1), np.float32), targets, np.ones(4)))
    assert evaluation.mean_average_precision == pytest.approx(0.25)


def test_images_without_a_label_do_not_count_in_the_accuracy():
    logits, targets = predictions()
    targets[10:] = 0
    evaluation = evaluate((logits, targets, np.ones(300)))
    correct = targets[np.arange(10), logits[:10].argmax(axis=1)]
    assert evaluation.top_1_accuracy == pytest.approx(correct.sum() / targets[:10].any(axis=1).sum())
    without_labels = evaluate((logits, 0 * targets, np.ones(300)))
    assert without_labels.top_1_accuracy == without_labels.mean_average_precision == without_labels.f1 == 0


def test_mean_average_precision_breaks_ties_in_top_1_accuracy():
    worse = MultiLabelEvaluation(1, 0.9, 1, 0.1, 0.1, 0.5, 0.5)
    better = MultiLabelEvaluation(2, 0.9, 1, 0.1, 0.1, 0.6, 0.5)
    assert better.ranking_key > worse.ranking_key
    assert MultiLabelEvaluation(2, 0.91, 1, 0.1, 0.1, 0.1, 0.5).ranking_key > better.ranking_key


def test_evaluations_are_restored_with_their_class():
    multi_label = MultiLabelEvaluation(1, 0.9, 1, 0.1, 0.1, 0.5, 0.5, set_scores=(0.5, -2.0))
    single_label = Evaluation(1, 0.9, 1, 0.1, 0.1, temperature=1.5, set_scores=(0.5,))
    for evaluation in (multi_label, single_label):
        assert evaluation_of(json.loads(json.dumps(dataclasses.asdict(evaluation)))) == evaluation
