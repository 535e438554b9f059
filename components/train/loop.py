"""The training loop: steps, evaluations between them, and the best evaluation's weights."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.common.errors import CheckFailedError
from components.common.log import Progress, log_event
from components.common.quiet_tensorflow import keras, tf
from components.train.arguments import TrainingArguments


@dataclass(frozen=True)
class Trainable:
    """What the loop trains: a function and its variables.

    Attributes:
        logits: ``logits(inputs, training=...)`` -> float32 [batch, num_classes].
        input_spec: Of one batch of inputs, with an open batch dimension.
        trained: The variables that gradients are taken for.
        kernels: Those among them that weight decay holds for.
        kept: Every variable that training changes, statistics included: what "the best model" is.
        num_classes: Number of logits.
    """

    logits: Callable[..., Any]
    input_spec: tf.TensorSpec
    trained: list[Any]
    kernels: list[Any]
    kept: list[Any]
    num_classes: int


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found; the losses are mean cross-entropies in nats, without weight decay.

    Attributes:
        step: Training steps done.
        top_1_accuracy: Share of validation images whose class has the highest probability, 0..1.
        top_5_accuracy: Share whose class is among the five highest (all, if there are fewer), 0..1.
        loss: On the validation images, without label smoothing.
        train_loss: Mean over the training steps since the evaluation before, with label smoothing.
    """

    step: int
    top_1_accuracy: float
    top_5_accuracy: float
    loss: float
    train_loss: float


@dataclass(frozen=True)
class LoopResult:
    """All evaluations in order, and the best of them: highest top-1 accuracy, the earliest on a tie."""

    evaluations: tuple[Evaluation, ...]
    best: Evaluation


def run_loop(
    trainable: Trainable,
    optimizer: keras.optimizers.Optimizer,
    arguments: TrainingArguments,
    training_batches: Iterable[tuple[Any, Any]],
    evaluation_batches: Iterable[tuple[Any, Any]],
) -> LoopResult:
    """Trains ``max_steps`` steps, evaluates on the way and after the last one.

    When it returns, the variables hold the weights of the best evaluation.

    Args:
        trainable: What to train.
        optimizer: With its learning rate schedule.
        arguments: Steps, smoothing, decay.
        training_batches: Endless (inputs, classes).
        evaluation_batches: Can be gone through again for every evaluation.

    Raises:
        CheckFailedError: if the loss of a step or of an evaluation is not finite.
    """
    # Built beforehand, so that the step is traced once: Keras otherwise makes the optimizer's variables
    # in the first trace and traces again without them.
    optimizer.build(trainable.trained)
    train_step = _train_step(trainable, optimizer, arguments)
    evaluate_batch = _evaluate_batch(trainable)
    progress = Progress("train", arguments.max_steps, "steps")
    every = arguments.resolved_steps_per_eval()
    evaluations: list[Evaluation] = []
    best: Evaluation | None = None
    best_weights: list[np.ndarray] = []
    losses: list[float] = []
    for step, (inputs, classes) in enumerate(training_batches, start=1):
        loss, rate = train_step(inputs, classes).numpy().tolist()
        if not math.isfinite(loss):
            raise _diverged("training", step, rate)
        losses.append(loss)
        progress.update(step, loss=loss, learning_rate=rate)
        if step % every == 0 or step == arguments.max_steps:
            evaluation = _evaluate(evaluate_batch, evaluation_batches, step, float(np.mean(losses)))
            # The step just done may be the one that went wrong: a loss that JSON has no word for, and
            # an accuracy that is the share of class 0.
            if not math.isfinite(evaluation.loss):
                raise _diverged("validation", step, rate)
            losses.clear()
            evaluations.append(evaluation)
            if best is None or evaluation.top_1_accuracy > best.top_1_accuracy:
                best = evaluation
                best_weights = [variable.numpy() for variable in trainable.kept]
        if step == arguments.max_steps:
            break
    assert best is not None  # noqa: S101 - the last step evaluates, and max_steps is at least 1
    for variable, value in zip(trainable.kept, best_weights, strict=True):
        variable.assign(value)
    return LoopResult(tuple(evaluations), best)


def _train_step(
    trainable: Trainable, optimizer: keras.optimizers.Optimizer, arguments: TrainingArguments
) -> Callable[..., Any]:
    """Returns the function that takes one step: (inputs, classes) -> float32 [cross-entropy, rate]."""
    smoothing, weight_decay = arguments.label_smoothing, arguments.weight_decay

    @tf.function(input_signature=(trainable.input_spec, tf.TensorSpec([None], tf.int64)))
    def train_step(inputs: Any, classes: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = trainable.logits(inputs, training=True)
            targets = tf.one_hot(classes, trainable.num_classes, 1.0 - smoothing) + (
                smoothing / trainable.num_classes
            )
            cross_entropy = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
            penalty = tf.add_n([tf.nn.l2_loss(kernel) for kernel in trainable.kernels])
            loss = cross_entropy + weight_decay * penalty
        # Asked for before apply() counts the step.
        rate = tf.cast(optimizer.learning_rate, tf.float32)
        optimizer.apply(tape.gradient(loss, trainable.trained), trainable.trained)
        return tf.stack([cross_entropy, rate])

    return train_step  # type: ignore[no-any-return]


def _evaluate_batch(trainable: Trainable) -> Callable[..., Any]:
    """Returns (inputs, classes) -> float32 [correct, in top five, sum of losses, images]."""
    top = min(5, trainable.num_classes)

    @tf.function(input_signature=(trainable.input_spec, tf.TensorSpec([None], tf.int64)))
    def evaluate_batch(inputs: Any, classes: Any) -> Any:
        logits = trainable.logits(inputs, training=False)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        # argmax as in serving; the lowest class wins a tie.
        correct = tf.equal(tf.argmax(logits, axis=-1), classes)
        in_top = tf.math.in_top_k(classes, logits, top)
        sums = [tf.reduce_sum(tf.cast(values, tf.float32)) for values in (correct, in_top, loss)]
        return tf.stack([*sums, tf.cast(tf.shape(classes)[0], tf.float32)])

    return evaluate_batch  # type: ignore[no-any-return]


def _evaluate(
    evaluate_batch: Callable[..., Any], batches: Iterable[tuple[Any, Any]], step: int, train_loss: float
) -> Evaluation:
    # Sums in float64: in float32 a count stops at 16.7 million.
    sums = np.zeros(4)
    for inputs, classes in batches:
        sums += evaluate_batch(inputs, classes).numpy()
    correct, in_top, loss, count = sums.tolist()
    evaluation = Evaluation(step, correct / count, in_top / count, loss / count, train_loss)
    log_event(
        "evaluation",
        f"train: step {step}: top-1 accuracy {evaluation.top_1_accuracy:.4f}, loss {evaluation.loss:.4f}, "
        f"training loss {train_loss:.4f}",
        training_step=step,
        top_1_accuracy=evaluation.top_1_accuracy,
        top_5_accuracy=evaluation.top_5_accuracy,
        loss=evaluation.loss,
        train_loss=train_loss,
    )
    return evaluation


def _diverged(which: str, step: int, rate: float) -> CheckFailedError:
    return CheckFailedError(
        f"the {which} loss is not a number any more at step {step} (learning rate {rate:.3g})",
        remedy="lower initial_learning_rate, or give warmup_steps so that the rate rises slowly",
    )
