"""The learning rate at every step."""

import math
from collections.abc import Sequence
from typing import Any

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.arguments import TrainingArguments


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A straight line up to the initial rate, then what ``_decayed`` says.

    At step s < warmup_steps the rate is warmup + (initial - warmup) * s / warmup_steps. Source: Goyal et
    al. (2017).
    """

    def __init__(self, initial_learning_rate: float, warmup_learning_rate: float, warmup_steps: int) -> None:
        super().__init__()
        self.initial_learning_rate = initial_learning_rate
        self.warmup_learning_rate = warmup_learning_rate
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        """Returns the rate at a step, both scalars (the rate float32)."""
        step = tf.cast(step, tf.float32)
        rise = step / max(1, self.warmup_steps)
        warming = self.warmup_learning_rate + (self.initial_learning_rate - self.warmup_learning_rate) * rise
        return tf.where(step < self.warmup_steps, warming, self._decayed(step))

    def _decayed(self, step: Any) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as Keras asks of a schedule."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "warmup_learning_rate": self.warmup_learning_rate,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable(package="imgpipe")
class WarmupThenCosine(_Warmup):
    """A straight line up to the initial rate, then half a cosine down to 0.

    Behind the warm-up the rate is
    initial * (1 + cos(pi * (s - warmup_steps) / (decay_steps - warmup_steps))) / 2, and 0 from
    decay_steps on. Source: Loshchilov and Hutter (2016), without restarts.

    Args:
        initial_learning_rate: The rate when the warm-up is over.
        warmup_learning_rate: The rate at step 0, if there is a warm-up.
        warmup_steps: Length of the warm-up; 0 for none.
        decay_steps: The step at which the rate reaches 0.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        warmup_learning_rate: float,
        warmup_steps: int,
        decay_steps: int,
    ) -> None:
        super().__init__(initial_learning_rate, warmup_learning_rate, warmup_steps)
        self.decay_steps = decay_steps

    def _decayed(self, step: Any) -> Any:
        share = (step - self.warmup_steps) / max(1, self.decay_steps - self.warmup_steps)
        return 0.5 * self.initial_learning_rate * (1 + tf.cos(math.pi * tf.clip_by_value(share, 0.0, 1.0)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as Keras asks of a schedule."""
        return {**super().get_config(), "decay_steps": self.decay_steps}


@keras.saving.register_keras_serializable(package="imgpipe")
class WarmupThenSteps(_Warmup):
    """A straight line up to the initial rate, which holds up to the first of the given steps.

    Args:
        initial_learning_rate: The rate when the warm-up is over.
        warmup_learning_rate: The rate at step 0, if there is a warm-up.
        warmup_steps: Length of the warm-up; 0 for none.
        steps: Ascending.
        levels: The rate from each of them on.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        warmup_learning_rate: float,
        warmup_steps: int,
        steps: Sequence[int],
        levels: Sequence[float],
    ) -> None:
        super().__init__(initial_learning_rate, warmup_learning_rate, warmup_steps)
        self.steps, self.levels = list(steps), list(levels)

    def _decayed(self, step: Any) -> Any:
        begun = tf.reduce_sum(tf.cast(step >= tf.constant(self.steps, tf.float32), tf.int32))
        return tf.gather(tf.constant([self.initial_learning_rate, *self.levels]), begun)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as Keras asks of a schedule."""
        return {**super().get_config(), "steps": self.steps, "levels": self.levels}


def build_schedule(arguments: TrainingArguments) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate of the arguments."""
    warmup = (arguments.initial_learning_rate, arguments.warmup_learning_rate, arguments.warmup_steps)
    if arguments.learning_rate_decay_type == "stepwise":
        steps, levels = zip(*arguments.stepwise_learning_rates(), strict=True)
        return WarmupThenSteps(*warmup, steps, levels)
    return WarmupThenCosine(*warmup, arguments.decay_steps or arguments.max_steps)


def build_optimizer(arguments: TrainingArguments, precision: str = "float32") -> keras.optimizers.Optimizer:
    """Returns the optimizer of the arguments, with the learning rate schedule inside.

    For float16 its loss is scaled, and a step whose gradients are too large for float16 is left out: small
    gradients would vanish otherwise.
    """
    optimizer = _optimizer(arguments)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def _optimizer(arguments: TrainingArguments) -> keras.optimizers.Optimizer:
    schedule = build_schedule(arguments)
    settings = arguments.optimizer_settings()
    if arguments.optimizer_type == "momentum":
        return keras.optimizers.SGD(
            schedule, momentum=settings["momentum"], nesterov=settings["use_nesterov"]
        )
    if arguments.optimizer_type == "adam":
        return keras.optimizers.Adam(
            schedule, beta_1=settings["beta1"], beta_2=settings["beta2"], epsilon=settings["epsilon"]
        )
    return keras.optimizers.RMSprop(
        schedule, rho=settings["decay"], momentum=settings["momentum"], epsilon=settings["epsilon"]
    )
