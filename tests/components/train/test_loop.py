import dataclasses
import itertools
import os
import signal
import time

import numpy as np
import pytest

from imgpipe.components.common.errors import CheckFailedError, InterruptedRunError
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.loop import Callbacks, SavedTraining, TrainingInputs, run_loop
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.training_step import Trainable

FEATURES = 3
CLASSES = 4


def arguments(**values):
    return TrainingArguments(
        **{"model_type": "mobilenet-v2", "max_steps": 6, "train_batch_size": 8, **values}
    )


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


def train(trainable, optimizer, settings, training_batches, evaluation_batches, **values):
    """Trains on one device."""
    inputs = TrainingInputs(trainable, training_batches, evaluation_batches)
    one_device = Accelerators(tf.distribute.get_strategy(), "CPU")
    return run_loop(inputs, optimizer, settings, one_device, **values)


def scripted(correct):
    """Returns a model that is correct on ``correct[step]`` of ten evaluation images after ``step`` steps.

    The step is counted in a variable that training changes without a gradient, as it does with the statistics
    of batch normalization.
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
    result = train(trainable, build_optimizer(settings), settings, lambda _: training, evaluation)
    return result, int(counter.numpy())


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def smoothed_targets(classes, smoothing):
    return np.eye(CLASSES)[classes] * (1 - smoothing) + smoothing / CLASSES


def one_step(**values):
    """Returns the settings of one SGD step with learning rate 0.1 and label smoothing 0.2."""
    return arguments(
        max_steps=1,
        label_smoothing=0.2,
        initial_learning_rate=0.1,
        optimizer_arguments="momentum=0",
        **values,
    )


def test_the_weights_of_the_best_evaluation_are_restored():
    result, steps_of_weights = run_scripted([0, 2, 5, 9, 4, 8, 3], train_steps_per_eval=1)
    assert [evaluation.top_1_accuracy for evaluation in result.evaluations] == [0.2, 0.5, 0.9, 0.4, 0.8, 0.3]
    assert (result.best.step, result.best.top_1_accuracy) == (3, 0.9)
    assert steps_of_weights == 3


def test_the_earliest_wins_a_tie():
    result, steps_of_weights = run_scripted([0, 2, 7, 7, 1, 7], train_steps_per_eval=1)
    assert result.best.step == steps_of_weights == 2


@pytest.mark.parametrize(
    ("max_steps", "steps_per_eval", "steps"), [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 100, [2])]
)
def test_evaluations_take_place_at_the_interval_and_after_the_last_step(max_steps, steps_per_eval, steps):
    result, _ = run_scripted([0] * (max_steps + 1), train_steps_per_eval=steps_per_eval)
    assert [evaluation.step for evaluation in result.evaluations] == steps


@pytest.mark.parametrize("sizes", [[10], [4, 4, 2], [9, 1], [1] * 10])
def test_an_evaluation_does_not_depend_on_the_batch_sizes(sizes):
    trainable = linear()
    inputs, classes = batch(10)
    ends = itertools.accumulate(sizes)
    batches = [
        (inputs[end - size : end], classes[end - size : end]) for end, size in zip(ends, sizes, strict=True)
    ]
    settings = arguments(max_steps=1)
    probabilities = softmax(inputs @ trainable.kernels[0].numpy())
    optimizer = keras.optimizers.SGD(0.0)
    evaluation = train(trainable, optimizer, settings, lambda _: itertools.repeat(batch()), batches).best
    assert evaluation.top_1_accuracy == np.mean(probabilities.argmax(axis=1) == classes)
    assert evaluation.top_5_accuracy == 1.0
    assert evaluation.loss == pytest.approx(-np.log(probabilities[np.arange(10), classes]).mean(), rel=1e-5)


def test_the_training_loss_is_the_mean_since_the_last_evaluation_with_label_smoothing():
    trainable = linear()
    batches = [batch(seed=seed) for seed in range(4)]
    kernel = trainable.kernels[0].numpy()
    losses = [
        -(smoothed_targets(classes, 0.3) * np.log(softmax(inputs @ kernel))).sum(axis=1).mean()
        for inputs, classes in batches
    ]
    settings = arguments(max_steps=4, label_smoothing=0.3, train_steps_per_eval=2, weight_decay=7.0)
    result = train(trainable, keras.optimizers.SGD(0.0), settings, lambda _: batches, [batch()])
    train_losses = [evaluation.train_loss for evaluation in result.evaluations]
    assert train_losses == pytest.approx([np.mean(losses[:2]), np.mean(losses[2:])], rel=1e-5)


def test_a_step_follows_the_gradient_of_cross_entropy_and_l2_of_the_kernels():
    trainable = linear()
    inputs, classes = batch()
    kernel, bias = (variable.numpy() for variable in trainable.trained)
    error = (softmax(inputs @ kernel + bias) - smoothed_targets(classes, 0.2)) / len(classes)
    settings = one_step(weight_decay=0.5)
    train(trainable, build_optimizer(settings), settings, lambda _: [(inputs, classes)], [batch()])
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
    result = train(trainable, keras.optimizers.SGD(0.0), arguments(max_steps=1), lambda _: batches, batches)
    assert (result.best.top_1_accuracy, result.best.top_5_accuracy) == (1 / 8, 5 / 8)


def test_the_error_of_a_nan_training_loss_names_the_step_and_the_learning_rate():
    good, (inputs, classes) = batch(), batch()
    bad = (np.full_like(inputs, np.nan), classes)
    settings = arguments(max_steps=10, initial_learning_rate=0.5, warmup_steps=4, warmup_learning_rate=0.1)
    with pytest.raises(CheckFailedError) as caught:
        train(linear(), build_optimizer(settings), settings, lambda _: [good, good, bad, *[good] * 7], [good])
    # The learning rate of step 3, counted from 1, is 0.1 + 0.4 * 2/4.
    assert "training loss" in str(caught.value)
    assert "step 3 (learning rate 0.3)" in str(caught.value)
    assert "lower initial_learning_rate" in str(caught.value)


def test_divergence_in_the_last_step_is_an_error():
    # The loss of the step itself is finite; only the evaluation shows the damage.
    settings = arguments(max_steps=1, initial_learning_rate=1e38, weight_decay=1e3)
    with pytest.raises(CheckFailedError, match=r"validation loss .* step 1 \(learning rate 1e\+38\)"):
        train(linear(), build_optimizer(settings), settings, lambda _: [batch()], [batch()])


def test_class_weights_apply_to_the_loss_and_its_gradient():
    weights = np.array([0.5, 2.0, 1.0, 0.0], np.float32)
    trainable = dataclasses.replace(linear(), class_weights=weights)
    inputs, classes = batch()
    kernel, bias = (variable.numpy() for variable in trainable.trained)
    probabilities = softmax(inputs @ kernel + bias)
    targets = smoothed_targets(classes, 0.2)
    settings = one_step(weight_decay=0)
    result = train(trainable, build_optimizer(settings), settings, lambda _: [(inputs, classes)], [batch()])
    losses = -(targets * np.log(probabilities)).sum(axis=1)
    assert result.best.train_loss == pytest.approx((weights[classes] * losses).mean(), rel=1e-5)
    error = weights[classes][:, None] * (probabilities - targets) / len(classes)
    expected = kernel - 0.1 * inputs.T @ error
    np.testing.assert_allclose(trainable.trained[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_moving_average_is_evaluated_and_kept():
    plain, averaged = linear(), linear()
    kernel = plain.kernels[0].numpy()
    settings = arguments(max_steps=3, initial_learning_rate=0.5, ema=0.15, train_steps_per_eval=3)
    steps = []

    def training(_):
        for seed in range(3):
            yield batch(seed=seed)
            steps.append(plain.kernels[0].numpy())

    without = dataclasses.replace(settings, ema=0.0)
    train(plain, build_optimizer(settings), without, training, [batch()])
    steps.append(plain.kernels[0].numpy())
    train(averaged, build_optimizer(settings), settings, training, [batch()])
    expected = kernel
    for number, weights in enumerate(steps[:3], start=1):
        decay = min(0.15, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weights
    np.testing.assert_allclose(averaged.kernels[0].numpy(), expected, rtol=1e-5)


def test_early_stopping_ends_the_training():
    result, steps_of_weights = run_scripted(
        [0, 5, 4, 6, 6, 5, 9, 9], train_steps_per_eval=1, early_stopping_patience=2
    )
    assert [evaluation.step for evaluation in result.evaluations] == [1, 2, 3, 4, 5]
    assert result.best.step == steps_of_weights == 3
    assert result.end_reason == "no improvement on step 3 in the last 2 evaluations"


def test_training_ends_with_an_evaluation_when_max_duration_is_reached():
    trainable, _, evaluation, _ = scripted([1] * 1000)

    def slow(_):
        while True:
            time.sleep(0.05)
            yield np.zeros((2, 1), np.float32), np.array([0, 1])

    settings = arguments(max_steps=900, max_duration=1)
    began = time.monotonic()
    result = train(trainable, build_optimizer(settings), settings, slow, evaluation)
    assert time.monotonic() - began < 5
    assert "max_duration=1" in result.end_reason
    assert [evaluation.step for evaluation in result.evaluations] == [result.best.step]


def test_the_stop_callback_can_end_the_training():
    trainable, training, evaluation, _ = scripted([0, 1, 2, 3, 4, 5])
    settings = arguments(max_steps=5, train_steps_per_eval=1)
    callbacks = Callbacks(stop=lambda evaluations: "a rule" if len(evaluations) == 3 else "")
    result = train(
        trainable, build_optimizer(settings), settings, lambda _: training, evaluation, callbacks=callbacks
    )
    assert (result.end_reason, result.best.step) == ("a rule", 3)


# ---------------------------------------------------------------- interruption and resumption


class Interruptible:
    """A training run of the linear model that records what the loop saves."""

    def __init__(self, **values):
        self.settings = arguments(max_steps=12, train_steps_per_eval=5, initial_learning_rate=0.3, **values)
        self.checkpoint, self.best, self.reports = None, {}, []

    def run(self, at_step=None, action=None):
        """Trains; calls ``action`` when the batch of step ``at_step`` is requested."""
        trainable = linear()

        def batches(done):
            for step in itertools.count(done + 1):
                if step == at_step:
                    action()
                yield batch(seed=step)

        saved = None
        if self.checkpoint is not None:
            best = self.checkpoint.state.get("best_step")
            saved = SavedTraining(self.checkpoint, self.best.get(best))
        callbacks = Callbacks(
            report=lambda evaluations: self.reports.append(evaluations[-1].step),
            save=lambda checkpoint: setattr(self, "checkpoint", checkpoint),
            save_best=self.best.__setitem__,
        )
        optimizer = build_optimizer(self.settings)
        result = train(
            trainable,
            optimizer,
            self.settings,
            batches,
            [batch(40, 99)],
            callbacks=callbacks,
            resume_from=saved,
        )
        return result, [variable.numpy() for variable in trainable.variables]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("at_step", [1, 5, 6, 8, 12])
def test_a_terminated_training_resumes_and_ends_as_an_uninterrupted_one(at_step, ema):
    uninterrupted, weights = Interruptible(ema=ema).run()
    interrupted = Interruptible(ema=ema)
    with pytest.raises(InterruptedRunError, match=f"at step {at_step} of 12"):
        interrupted.run(at_step, terminate)
    assert interrupted.checkpoint.step == at_step
    result, weights_after = interrupted.run()
    assert result.evaluations == uninterrupted.evaluations
    assert result.best == uninterrupted.best
    for array, expected in zip(weights_after, weights, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_crash_loses_only_the_steps_since_the_last_evaluation():
    uninterrupted, weights = Interruptible().run()
    crashed = Interruptible()
    with pytest.raises(ZeroDivisionError):
        crashed.run(8, lambda: 1 / 0)
    assert crashed.checkpoint.step == 5
    result, weights_after = crashed.run()
    assert result.evaluations == uninterrupted.evaluations
    np.testing.assert_array_equal(weights[0], weights_after[0])


def test_a_complete_training_takes_no_step():
    training = Interruptible()
    first, weights = training.run()
    training.reports.clear()
    again, weights_again = training.run(13, lambda: pytest.fail("a batch was requested"))
    assert again.evaluations == first.evaluations
    np.testing.assert_array_equal(weights[0], weights_again[0])


def test_the_best_weights_are_restored_when_the_training_diverges():
    trainable = linear()
    saved = {}
    bad = (np.full((8, FEATURES), np.nan, np.float32), np.zeros(8, np.int64))
    settings = arguments(max_steps=6, train_steps_per_eval=2)
    with pytest.raises(CheckFailedError, match="the model of step 2 is kept"):
        train(
            trainable,
            build_optimizer(settings),
            settings,
            lambda _: [batch(), batch(), bad, *[batch()] * 3],
            [batch()],
            callbacks=Callbacks(save_best=saved.__setitem__),
        )
    np.testing.assert_array_equal(trainable.kernels[0].numpy(), saved[2][0])


def test_the_initial_model_is_published_if_the_training_diverges_before_a_better_one():
    bad = (np.full((8, FEATURES), np.nan, np.float32), np.zeros(8, np.int64))
    settings, published = arguments(), []
    publisher = Publisher(lambda _folder, _evaluations, best: published.append(best.step), lambda _: None)
    with pytest.raises(CheckFailedError):
        train(
            linear(),
            build_optimizer(settings),
            settings,
            lambda _: [bad] * 6,
            [batch()],
            callbacks=Callbacks(publisher=publisher),
            first_evaluation=Evaluation(0, 0.5, 1.0, 1.0, 0.0),
        )
    assert published == [0]


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [1, 2, 3, 3]), (1e9, [3])])
def test_checkpoints_are_also_written_some_time_after_the_last_one(seconds, steps, monkeypatch):
    monkeypatch.setattr("imgpipe.components.train.loop._SECONDS_BETWEEN_CHECKPOINTS", seconds)
    trainable, training, evaluation, _ = scripted([0, 1, 2, 3])
    settings = arguments(max_steps=3, train_steps_per_eval=3)
    saved = []
    train(
        trainable,
        build_optimizer(settings),
        settings,
        lambda _: training,
        evaluation,
        callbacks=Callbacks(save=saved.append),
    )
    # The last step is saved before its evaluation, and again with it.
    assert [checkpoint.step for checkpoint in saved if checkpoint.step] == steps
