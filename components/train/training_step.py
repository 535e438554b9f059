"""The training step and the evaluation step as graph functions, on one or several devices."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.evaluation import SINGLE_LABEL_MEASURE, Measure
from imgpipe.components.train.multi_label_evaluation import multi_label_measure


@dataclass(frozen=True)
class Trainable:
    """The function that the loop trains, with its variables.

    Attributes:
        logits: ``logits(inputs, training=...)`` -> float32 [batch, num_classes].
        input_spec: The inputs of a batch of any size.
        trained: The variables that gradients are computed for.
        kernels: The trained variables that weight decay applies to.
        variables: All variables that training changes, including statistics. They define the best model.
        num_classes: Number of logits.
        class_weights: float32 [num_classes], the weight of images of each class or, in a multi-label data
            set, of positive relative to negative examples of each label; None = all 1.
        mix: ``mix(images, targets, step=...)`` blends the images and targets, both float32, of a batch;
            None = no blending.
        multi_label: Whether batches have targets (float32 [batch, num_classes], 1 for each label of the
            image, otherwise 0) instead of classes (int64 [batch]).
    """

    logits: Callable[..., Any]
    input_spec: tf.TensorSpec
    trained: list[Any]
    kernels: list[Any]
    variables: list[Any]
    num_classes: int
    class_weights: NDArray[np.float32] | None = None
    mix: Callable[..., tuple[Any, Any]] | None = None
    multi_label: bool = False

    @property
    def target_spec(self) -> tf.TensorSpec:
        """The classes or targets of a batch of any size."""
        if self.multi_label:
            return tf.TensorSpec([None, self.num_classes], tf.float32)
        return tf.TensorSpec([None], tf.int64)

    @property
    def measure(self) -> Measure:
        """The measure of the evaluation step."""
        return multi_label_measure(self.num_classes) if self.multi_label else SINGLE_LABEL_MEASURE


@dataclass(frozen=True)
class MovingAverage:
    """The moving average of the weights that ``ema`` evaluates and exports.

    The decay at step t is min(decay, (1 + t) / (10 + t)), as in tf.train.ExponentialMovingAverage with
    ``num_updates``, so that the average follows closely at the beginning.

    Attributes:
        decay: The decay in the long run.
        variables: The floating-point variables of ``Trainable.variables``.
        averages: The average of each variable.
    """

    decay: float
    variables: list[Any] = field(default_factory=list)
    averages: list[Any] = field(default_factory=list)

    def update(self, step: Any) -> None:
        """Updates the averages; inside the training step's graph, but outside of the per-device function."""
        count = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1 + count) / (10 + count))
        for variable, average in zip(self.variables, self.averages, strict=True):
            average.assign(decay * average + (1 - decay) * tf.convert_to_tensor(variable))

    def swap(self) -> None:
        """Swaps the weights and their averages."""
        for variable, average in zip(self.variables, self.averages, strict=True):
            weights = tf.identity(tf.convert_to_tensor(variable))
            variable.assign(tf.convert_to_tensor(average))
            average.assign(weights)


def moving_average(decay: float, variables: Iterable[Any]) -> MovingAverage | None:
    """Returns a moving average that is initialized with the current weights; None if ``decay`` is 0."""
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

    The cross-entropy is the mean over the batch, weighted by class, with label smoothing. In a multi-label
    data set it is the binary cross-entropy, averaged over the labels as in Keras' ``BinaryCrossentropy`` and
    PyTorch's ``MultiLabelSoftMarginLoss``, with smoothing towards 1/2. Weight decay is added to the loss that
    is minimized, but not to the returned value. On several devices, each one takes its part of the batch and
    the gradients are summed, so that the step is the same as on one device with the whole batch.
    """
    smoothing, weight_decay = arguments.label_smoothing, arguments.weight_decay
    batch_size = arguments.train_batch_size
    weights = None if trainable.class_weights is None else tf.constant(trainable.class_weights)

    def smooth(classes: Any) -> Any:
        if trainable.multi_label:
            return classes * (1.0 - smoothing) + smoothing / 2
        targets = tf.one_hot(classes, trainable.num_classes, 1.0 - smoothing) + (
            smoothing / trainable.num_classes
        )
        if weights is not None:
            # In the targets, so that a blend of two images gets the blend of their weights.
            targets *= tf.gather(weights, classes)[:, None]
        return targets

    def losses_of(targets: Any, logits: Any) -> Any:
        if trainable.multi_label:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
            if weights is not None:
                # Weighted by the targets without smoothing: smoothing makes every label slightly positive in
                # every image, and a weight on that part would raise the probability of rare labels in all
                # images.
                unsmoothed = (targets - smoothing / 2) / (1.0 - smoothing)
                losses *= 1.0 + (weights - 1.0) * unsmoothed
            return tf.reduce_mean(losses, axis=-1)
        # TensorFlow's fused operation has wrong gradients for targets that do not sum to 1.
        return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1)

    def step_on_replica(inputs: Any, classes: Any) -> Any:
        targets = smooth(classes)
        if trainable.mix is not None:
            inputs, targets = trainable.mix(tf.cast(inputs, tf.float32), targets, step=optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = trainable.logits(inputs, training=True)
            cross_entropy = tf.reduce_sum(losses_of(targets, logits)) / batch_size
            penalty = tf.add_n([tf.nn.l2_loss(kernel) for kernel in trainable.kernels])
            loss = cross_entropy + weight_decay * penalty / accelerators.replicas
            scaled_loss = optimizer.scale_loss(loss)
        # It sums the gradients over all devices.
        optimizer.apply(tape.gradient(scaled_loss, trainable.trained), trainable.trained)
        return cross_entropy

    def training_step(inputs: Any, classes: Any) -> Any:
        cross_entropy = accelerators.sum_over_devices(accelerators.run(step_on_replica, inputs, classes))
        if average is not None:
            average.update(optimizer.iterations)
        return cross_entropy

    return _graph_function(training_step, trainable, accelerators)


def build_evaluation_step(trainable: Trainable, accelerators: Accelerators) -> Callable[..., Any]:
    """Returns (inputs, classes, counted) -> the sums of ``Trainable.measure`` on each device of this worker.

    ``counted`` (float32 [batch]) is 0 for padding images, otherwise 1.
    """

    def sums_on_replica(inputs: Any, classes: Any, counted: Any) -> Any:
        return trainable.measure.sums(trainable.logits(inputs, training=False), classes, counted)

    def evaluation_step(inputs: Any, classes: Any, counted: Any) -> Any:
        return accelerators.run(sums_on_replica, inputs, classes, counted)

    return _graph_function(evaluation_step, trainable, accelerators, tf.TensorSpec([None], tf.float32))


def _graph_function(
    function: Callable[..., Any], trainable: Trainable, accelerators: Accelerators, *more: tf.TensorSpec
) -> Callable[..., Any]:
    """Returns a graph function that is traced once for batches of all sizes."""
    if accelerators.uses_strategy:
        # Per-device values cannot have a signature. Only the last batch of an evaluation has another size.
        return tf.function(function, autograph=False)  # type: ignore[no-any-return]
    signature = (trainable.input_spec, trainable.target_spec, *more)
    # Without AutoGraph, to save time: no Python control flow depends on a tensor here.
    return tf.function(function, input_signature=signature, autograph=False)  # type: ignore[no-any-return]
