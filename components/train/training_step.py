"""One training step as a graph function: loss, gradients, update; on one device or on several."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.evaluation import SINGLE_LABEL_MEASURE, Measure
from imgpipe.components.train.multi_label_evaluation import multi_label_measure, multi_label_sums


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
        class_weights: float32 [num_classes], how much an image of each class counts, or in a multi-label data
            set how much a label that an image has counts beside one that it has not; None = all alike.
        mix: ``mix(images, targets, step)`` -> images and targets, both float32, blended within the
            batch; None = they stay as they are.
        multi_label: Whether a batch has, instead of classes (int64 [batch]), targets (float32
            [batch, num_classes], 1 for each label that an image has, else 0).
    """

    logits: Callable[..., Any]
    input_spec: tf.TensorSpec
    trained: list[Any]
    kernels: list[Any]
    kept: list[Any]
    num_classes: int
    class_weights: NDArray[np.float32] | None = None
    mix: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
    multi_label: bool = False

    @property
    def target_spec(self) -> tf.TensorSpec:
        """Of what a batch says of its images, with an open batch dimension."""
        if self.multi_label:
            return tf.TensorSpec([None, self.num_classes], tf.float32)
        return tf.TensorSpec([None], tf.int64)

    @property
    def measure(self) -> Measure:
        """What the evaluation step sums up."""
        return multi_label_measure(self.num_classes) if self.multi_label else SINGLE_LABEL_MEASURE


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

    The cross-entropy is the mean over the batch, weighted by class, with label smoothing; in a multi-label
    data set it is the binary cross-entropy of each label, the mean over the labels as in Keras'
    ``BinaryCrossentropy`` and PyTorch's ``MultiLabelSoftMarginLoss``, smoothed towards 1/2. The loss whose
    gradients are taken has the weight decay besides. On several devices each takes its share
    of the batch and the gradients are added up, so that the step is that of one device with the
    whole batch.
    """
    smoothing, weight_decay = arguments.label_smoothing, arguments.weight_decay
    batch_size = arguments.train_batch_size
    weights = None if trainable.class_weights is None else tf.constant(trainable.class_weights)

    def smoothed(classes: Any) -> Any:
        if trainable.multi_label:
            return classes * (1.0 - smoothing) + smoothing / 2
        targets = tf.one_hot(classes, trainable.num_classes, 1.0 - smoothing) + (
            smoothing / trainable.num_classes
        )
        if weights is not None:
            # In the targets, so that a blend of two images counts as the blend of their weights.
            targets *= tf.gather(weights, classes)[:, None]
        return targets

    def losses_of(targets: Any, logits: Any) -> Any:
        if trainable.multi_label:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
            if weights is not None:
                # By what the image shows: smoothing gives every image a part of every label, and a weight on
                # that part would pull the rare labels up where they are not.
                shown = (targets - smoothing / 2) / (1.0 - smoothing)
                losses *= 1.0 + (weights - 1.0) * shown
            return tf.reduce_mean(losses, axis=-1)
        # TensorFlow's fused operation has wrong gradients for targets whose sum is not 1.
        return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1)

    def of_replica(inputs: Any, classes: Any) -> Any:
        targets = smoothed(classes)
        if trainable.mix is not None:
            inputs, targets = trainable.mix(tf.cast(inputs, tf.float32), targets, optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = trainable.logits(inputs, training=True)
            cross_entropy = tf.reduce_sum(losses_of(targets, logits)) / batch_size
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
    """Returns (inputs, classes, counted) -> float32 [sums] of each device of this worker.

    ``counted`` (float32 [batch], 1 or 0) says which images are not there only to fill a batch. There are four
    sums over them: correct, in the top five, losses, images; in a multi-label data set those of
    ``multi_label_sums``.
    """
    top = min(5, trainable.num_classes)

    def of_replica(inputs: Any, classes: Any, counted: Any) -> Any:
        logits = trainable.logits(inputs, training=False)
        if trainable.multi_label:
            return multi_label_sums(logits, classes, counted)
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
    signature = (trainable.input_spec, trainable.target_spec, *more)
    # No Python control flow depends on a tensor here: AutoGraph would only cost time.
    return tf.function(function, input_signature=signature, autograph=False)  # type: ignore[no-any-return]
