"""The learning rate schedule and the optimizer."""

import math
from collections.abc import Sequence
from typing import Any

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.optimizer_settings import optimizer_settings


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then the cosine or stepwise decay of the arguments.

    At step s < warmup_steps the rate is warmup + (initial - warmup) * s / warmup_steps (Goyal et al., 2017).
    The cosine decay is initial * (1 + cos(pi * (s - warmup_steps) / (decay_steps - warmup_steps))) / 2, and 0
    from decay_steps on (Loshchilov and Hutter, 2016, without restarts). The stepwise decay keeps the initial
    rate until the first of the given steps.
    """

    def __init__(self, arguments: TrainingArguments) -> None:
        super().__init__()
        self._arguments = arguments

    def __call__(self, step: Any) -> Any:
        """Returns the rate, float32, at a step; both are scalars."""
        initial, warmup = self._arguments.initial_learning_rate, self._arguments.warmup_learning_rate
        warmup_steps = self._arguments.warmup_steps
        step = tf.cast(step, tf.float32)
        warming = warmup + (initial - warmup) * (step / max(1, warmup_steps))
        return tf.where(step < warmup_steps, warming, self._decay(step))

    def _decay(self, step: Any) -> Any:
        arguments = self._arguments
        initial, warmup_steps = arguments.initial_learning_rate, arguments.warmup_steps
        if arguments.learning_rate_decay_type == "stepwise":
            steps, levels = zip(*arguments.stepwise_learning_rates(), strict=True)
            passed = tf.reduce_sum(tf.cast(step >= tf.constant(steps, tf.float32), tf.int32))
            return tf.gather(tf.constant([initial, *levels]), passed)
        decay_steps = arguments.decay_steps or arguments.max_steps
        fraction = (step - warmup_steps) / max(1, decay_steps - warmup_steps)
        return 0.5 * initial * (1 + tf.cos(math.pi * tf.clip_by_value(fraction, 0.0, 1.0)))


def build_optimizer(
    arguments: TrainingArguments,
    precision: str = "float32",
    rate_factors: Sequence[tuple[Any, float]] = (),
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of the arguments, including the learning rate schedule.

    ``rate_factors`` has variables with factors of their learning rates; the others have the full rate. For
    float16 it scales the loss, since small gradients would vanish, and skips steps with gradients that
    are too large for float16.
    """
    schedule = Schedule(arguments)
    settings = optimizer_settings(arguments.optimizer_type, arguments.optimizer_arguments)
    if arguments.optimizer_type == "momentum":
        optimizer = keras.optimizers.SGD(
            schedule, momentum=settings["momentum"], nesterov=settings["use_nesterov"]
        )
    elif arguments.optimizer_type == "adam":
        optimizer = keras.optimizers.Adam(
            schedule, beta_1=settings["beta1"], beta_2=settings["beta2"], epsilon=settings["epsilon"]
        )
    else:
        optimizer = keras.optimizers.RMSprop(
            schedule, rho=settings["decay"], momentum=settings["momentum"], epsilon=settings["epsilon"]
        )
    if rate_factors:
        _scale_rates(optimizer, rate_factors)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def _scale_rates(optimizer: keras.optimizers.Optimizer, rate_factors: Sequence[tuple[Any, float]]) -> None:
    """Scales the learning rates of variables, for which Keras has no option."""
    # Of a variable on several devices, update_step gets the part of one device; the key is the same.
    factors = {optimizer._var_key(variable): factor for variable, factor in rate_factors}
    update_step = optimizer.update_step

    def scaled_step(gradient: Any, variable: Any, learning_rate: Any) -> None:
        update_step(gradient, variable, learning_rate * factors.get(optimizer._var_key(variable), 1.0))

    optimizer.update_step = scaled_step
