import itertools

import numpy as np
import pytest

from components.common.errors import CheckFailedError
from components.common.log import parse_event
from components.common.quiet_tensorflow import keras, tf
from components.train.arguments import TrainingArguments
from components.train.loop import Trainable, run_loop
from components.train.schedules import build_optimizer

FEATURES = 3
CLASSES = 4


def arguments(**values):
    return TrainingArguments(**{"model_type": "mobilenet-v2", "max_steps": 6, **values})


def linear():
    """logits = inputs @ kernel + bias."""
    draw = np.random.default_rng(0)
    kernel = keras.Variable(draw.normal(size=(FEATURES, CLASSES)).astype(np.float32))
    bias = keras.Variable(np.zeros(CLASSES, np.float32))
    return Trainable(
        lambda inputs, **_: inputs @ kernel + bias,
        tf.TensorSpec([None, FEATURES], tf.float32),
        [kernel, bias],
        [kernel],
        [kernel, bias],
        CLASSES,
    )


def batch(size=8, seed=1):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(size, FEATURES)).astype(np.float32), draw.integers(0, CLASSES, size)


def scripted(correct):
    """Of ten evaluation images, ``correct[step]`` are answered right after ``step`` steps.

    The step is counted in a variable that training changes without a gradient, as the statistics of
    batch normalization are.
    """
    counter = tf.Variable(0)
    bias = keras.Variable(np.zeros(2, np.float32))
    table = tf.constant(correct, tf.float32)

    def logits(inputs, training):
        if training:
            counter.assign_add(1)
            return tf.zeros_like(inputs) + bias
        right = tf.cast(inputs < table[counter], tf.float32)
        return tf.concat([right, 1 - right], axis=1)

    trainable = Trainable(
        logits, tf.TensorSpec([None, 1], tf.float32), [bias], [bias], [bias, counter], num_classes=2
    )
    training = itertools.repeat((np.zeros((2, 1), np.float32), np.array([0, 1])))
    evaluation = [(np.arange(10, dtype=np.float32)[:, None], np.zeros(10, np.int64))]
    return trainable, training, evaluation, counter


def run_scripted(correct, **values):
    trainable, training, evaluation, counter = scripted(correct)
    settings = arguments(max_steps=len(correct) - 1, **values)
    result = run_loop(trainable, build_optimizer(settings), settings, training, evaluation)
    return result, int(counter.numpy())


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def smoothed_targets(classes, smoothing):
    return np.eye(CLASSES)[classes] * (1 - smoothing) + smoothing / CLASSES


def test_the_best_evaluation_wins_and_not_the_last_and_its_weights_are_put_back():
    result, steps_of_weights = run_scripted([0, 2, 5, 9, 4, 8, 3], train_steps_per_eval=1)
    assert [evaluation.top_1_accuracy for evaluation in result.evaluations] == [0.2, 0.5, 0.9, 0.4, 0.8, 0.3]
    assert (result.best.step, result.best.top_1_accuracy) == (3, 0.9)
    assert steps_of_weights == 3


def test_the_earliest_wins_a_tie():
    result, steps_of_weights = run_scripted([0, 2, 7, 7, 1, 7], train_steps_per_eval=1)
    assert result.best.step == steps_of_weights == 2


def test_evaluations_come_every_so_many_steps_and_after_the_last():
    result, _ = run_scripted([0] * 8, train_steps_per_eval=3)
    assert [evaluation.step for evaluation in result.evaluations] == [3, 6, 7]
    result, _ = run_scripted([0] * 7, train_steps_per_eval=3)
    assert [evaluation.step for evaluation in result.evaluations] == [3, 6]
    result, _ = run_scripted([0] * 3, train_steps_per_eval=100)
    assert [evaluation.step for evaluation in result.evaluations] == [2]


@pytest.mark.parametrize("sizes", [[10], [4, 4, 2], [9, 1], [1] * 10])
def test_how_the_evaluation_is_cut_into_batches_has_no_effect(sizes):
    trainable = linear()
    inputs, classes = batch(10)
    ends = list(itertools.accumulate(sizes))
    pieces = [(inputs[e - s : e], classes[e - s : e]) for e, s in zip(ends, sizes, strict=True)]
    settings = arguments(max_steps=1)
    probabilities = softmax(inputs @ trainable.kernels[0].numpy())
    optimizer = keras.optimizers.SGD(0.0)
    evaluation = run_loop(trainable, optimizer, settings, itertools.repeat(batch()), pieces).best
    assert evaluation.top_1_accuracy == np.mean(probabilities.argmax(axis=1) == classes)
    assert evaluation.top_5_accuracy == 1.0
    assert evaluation.loss == pytest.approx(-np.log(probabilities[np.arange(10), classes]).mean(), rel=1e-5)


def test_the_training_loss_has_label_smoothing_and_is_the_mean_since_the_last_evaluation():
    trainable = linear()
    batches = [batch(seed=seed) for seed in range(4)]
    kernel = trainable.kernels[0].numpy()
    losses = [
        -(smoothed_targets(classes, 0.3) * np.log(softmax(inputs @ kernel))).sum(axis=1).mean()
        for inputs, classes in batches
    ]
    settings = arguments(max_steps=4, label_smoothing=0.3, train_steps_per_eval=2, weight_decay=7.0)
    result = run_loop(trainable, keras.optimizers.SGD(0.0), settings, batches, [batch()])
    found = [evaluation.train_loss for evaluation in result.evaluations]
    assert found == pytest.approx([np.mean(losses[:2]), np.mean(losses[2:])], rel=1e-5)


def test_a_step_follows_the_gradient_of_cross_entropy_and_l2_of_the_kernels():
    trainable = linear()
    inputs, classes = batch()
    kernel, bias = (variable.numpy() for variable in trainable.trained)
    error = (softmax(inputs @ kernel + bias) - smoothed_targets(classes, 0.2)) / len(classes)
    settings = arguments(
        max_steps=1,
        label_smoothing=0.2,
        weight_decay=0.5,
        initial_learning_rate=0.1,
        optimizer_arguments="momentum=0",
    )
    run_loop(trainable, build_optimizer(settings), settings, [(inputs, classes)], [batch()])
    expected_kernel = kernel - 0.1 * (inputs.T @ error + 0.5 * kernel)
    np.testing.assert_allclose(trainable.trained[0].numpy(), expected_kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trainable.trained[1].numpy(), bias - 0.1 * error.sum(axis=0), atol=1e-6)


def test_top_5_counts_the_five_most_probable():
    logits = tf.constant(np.tile(np.arange(8, dtype=np.float32), (8, 1)))
    bias = keras.Variable(np.zeros(8, np.float32))
    trainable = Trainable(
        lambda inputs, **_: inputs + bias,
        tf.TensorSpec([None, 8], tf.float32),
        [bias],
        [bias],
        [bias],
        8,
    )
    batches = [(logits, np.arange(8))]
    result = run_loop(trainable, keras.optimizers.SGD(0.0), arguments(max_steps=1), batches, batches)
    assert (result.best.top_1_accuracy, result.best.top_5_accuracy) == (1 / 8, 5 / 8)


def test_a_training_loss_that_is_no_number_names_its_step_and_its_learning_rate():
    good, (inputs, classes) = batch(), batch()
    bad = (np.full_like(inputs, np.nan), classes)
    settings = arguments(max_steps=10, initial_learning_rate=0.5, warmup_steps=4, warmup_learning_rate=0.1)
    with pytest.raises(CheckFailedError) as caught:
        run_loop(linear(), build_optimizer(settings), settings, [good, good, bad], [good])
    # The rate of step 3, counted from 1: 0.1 + 0.4 * 2/4.
    assert "training loss" in str(caught.value)
    assert "step 3 (learning rate 0.3)" in str(caught.value)
    assert "lower initial_learning_rate" in str(caught.value)


def test_weights_that_the_last_step_ruins_are_no_result():
    # The loss of the step itself was a number: only the evaluation shows what it did.
    settings = arguments(max_steps=1, initial_learning_rate=1e38, weight_decay=1e3)
    with pytest.raises(CheckFailedError, match=r"validation loss .* step 1 \(learning rate 1e\+38\)"):
        run_loop(linear(), build_optimizer(settings), settings, [batch()], [batch()])


def test_every_evaluation_is_logged(capsys):
    run_scripted([0, 3, 6], train_steps_per_eval=1)
    events = [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]
    logged = [event for event in events if event["event"] == "evaluation"]
    assert [(event["training_step"], event["top_1_accuracy"]) for event in logged] == [(1, 0.3), (2, 0.6)]
