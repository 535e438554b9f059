"""One training step as a graph function: loss, gradients, update; on one device or on several."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.common.quiet_tensorflow import keras, tf
from components.train.accelerators import Accelerators
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
        class_weights: float32 [num_classes], how much an image of each class counts; None = all alike.
        mix: ``mix(images, targets, step)`` -> images and targets, both float32, blended within the
            batch; None = they stay as they are.
    """

    logits: Callable[..., Any]
    input_spec: tf.TensorSpec
    trained: list[Any]
    kernels: list[Any]
    kept: list[Any]
    num_classes: int
    class_weights: NDArray[np.float32] | None = None
    mix: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None


@dataclass(frozen=True)
class MovingAverage:
    """A moving average of weights, kept beside them: what ``ema`` evaluates and exports.

    At step t the average keeps the share min(decay, (1 + t) / (10 + t)), as
    tf.train.ExponentialMovingAverage does with ``num_updates``: early on it follows closely.

    Attributes:
        decay: The share in the long run.
        variables: Those that are averaged: of ``Trainable.kept``, the floating ones.
        averages: Beside each of them.
    """

    decay: float
    variables: list[Any] = field(default_factory=list)
    averages: list[Any] = field(default_factory=list)

    def update(self, step: Any) -> None:
        """Follows the weights; inside the training step's graph, outside of the devices' function."""
        count = tf.cast(step, tf.float32)
        kept = tf.minimum(self.decay, (1 + count) / (10 + count))
        for variable, average in zip(self.variables, self.averages, strict=True):
            average.assign(kept * average + (1 - kept) * tf.convert_to_tensor(variable))

    def exchange(self) -> None:
        """Puts the averages into the model and the weights in their place; a second call undoes it."""
        for variable, average in zip(self.variables, self.averages, strict=True):
            weights = tf.identity(tf.convert_to_tensor(variable))
            variable.assign(tf.convert_to_tensor(average))
            average.assign(weights)


def moving_average(decay: float, variables: Iterable[Any]) -> MovingAverage | None:
    """Returns a moving average that begins at the variables' values; None if ``decay`` is 0."""
    if not decay:
        return None
    averaged = [variable for variable in variables if tf.as_dtype(variable.dtype).is_floating]
    averages = [tf.Variable(tf.convert_to_tensor(variable), trainable=False) for variable in averaged]
    return MovingAverage(decay, averaged, averages)


def build_training_step(
    trainable: Trainable,
    optimizer: keras.optimizers.Optimizer,
    arguments: TrainingArguments,
    accelerators: Accelerators,
    average: MovingAverage | None = None,
) -> Callable[..., Any]:
    """Returns the function that takes one step: (inputs, classes) -> float32 scalar, the cross-entropy.

    The cross-entropy is the mean over the batch, weighted by class, with label smoothing; the loss
    whose gradients are taken has the weight decay besides. On several devices each takes its share
    of the batch and the gradients are added up, so that the step is that of one device with the
    whole batch.
    """
    smoothing, weight_decay = arguments.label_smoothing, arguments.weight_decay
    batch_size = arguments.train_batch_size
    weights = None if trainable.class_weights is None else tf.constant(trainable.class_weights)

    def of_replica(inputs: Any, classes: Any) -> Any:
        targets = tf.one_hot(classes, trainable.num_classes, 1.0 - smoothing) + (
            smoothing / trainable.num_classes
        )
        if weights is not None:
            # In the targets, so that a blend of two images counts as the blend of their weights.
            targets *= tf.gather(weights, classes)[:, None]
        if trainable.mix is not None:
            inputs, targets = trainable.mix(tf.cast(inputs, tf.float32), targets, optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = trainable.logits(inputs, training=True)
            # TensorFlow's fused operation has wrong gradients for targets whose sum is not 1.
            losses = -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1)
            cross_entropy = tf.reduce_sum(losses) / batch_size
            penalty = tf.add_n([tf.nn.l2_loss(kernel) for kernel in trainable.kernels])
            loss = cross_entropy + weight_decay * penalty / accelerators.replicas
            scaled_loss = optimizer.scale_loss(loss)
        # Adds the gradients of all devices up.
        optimizer.apply(tape.gradient(scaled_loss, trainable.trained), trainable.trained)
        return cross_entropy

    def training_step(inputs: Any, classes: Any) -> Any:
        cross_entropy = accelerators.summed(accelerators.run(of_replica, inputs, classes))
        if average is not None:
            average.update(optimizer.iterations)
        return cross_entropy

    return _graph_function(training_step, trainable, accelerators)


def build_evaluation_step(trainable: Trainable, accelerators: Accelerators) -> Callable[..., Any]:
    """Returns (inputs, classes, counted) -> float32 [4] of each device of this worker.

    ``counted`` (float32 [batch], 1 or 0) says which images are not there only to fill a batch. The four
    are sums over them: correct, in the top five, losses, images.
    """
    top = min(5, trainable.num_classes)

    def of_replica(inputs: Any, classes: Any, counted: Any) -> Any:
        logits = trainable.logits(inputs, training=False)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
        # argmax as in serving; the lowest class wins a tie.
        correct = tf.equal(tf.argmax(logits, axis=-1), classes)
        in_top = tf.math.in_top_k(classes, logits, top)
        sums = [
            tf.reduce_sum(counted * tf.cast(values, tf.float32))
            for values in (correct, in_top, loss, tf.ones_like(loss))
        ]
        return tf.stack(sums)

    def evaluation_step(inputs: Any, classes: Any, counted: Any) -> Any:
        return accelerators.run(of_replica, inputs, classes, counted)

    return _graph_function(evaluation_step, trainable, accelerators, tf.TensorSpec([None], tf.float32))


def _graph_function(
    function: Callable[..., Any], trainable: Trainable, accelerators: Accelerators, *more: tf.TensorSpec
) -> Callable[..., Any]:
    """Makes a graph of a function that is traced once, whatever the size of a batch."""
    if accelerators.replicas > 1:
        # Shares of a batch are no tensors with a signature; all but an evaluation's last have one size.
        return tf.function(function, autograph=False)  # type: ignore[no-any-return]
    signature = (trainable.input_spec, tf.TensorSpec([None], tf.int64), *more)
    # No Python control flow depends on a tensor here: AutoGraph would only cost time.
    return tf.function(function, input_signature=signature, autograph=False)  # type: ignore[no-any-return]
