"""Evaluates the model during training."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.label_sets import INTERVALS, lowest_scores
from imgpipe.components.common.temperature import TEMPERATURE_SUMS, fit_temperature
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.evaluation_sums import class_sums, margin_histogram

_SCALARS = 4
_HISTOGRAM = _SCALARS + TEMPERATURE_SUMS
_TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; losses are mean cross-entropies in nats, without weight decay.

    Attributes:
        step: Training steps done.
        top_1_accuracy: Fraction of validation images whose class has the highest probability, 0..1.
        top_5_accuracy: Fraction whose class is among the five most probable (all, if there are fewer), 0..1.
        loss: On the validation images, without label smoothing.
        train_loss: Mean over the training steps since the previous evaluation, with label smoothing and
            class weights; 0 if there were none.
        temperature: What the served model divides the logits by, so that its probabilities are true: fitted
            on the validation images. The losses are without it.
        set_scores: The lowest score of a label in a label set, from ``label_sets.lowest_scores``: one value,
            or one for each label of a multi-label data set.
    """

    step: int
    top_1_accuracy: float
    top_5_accuracy: float
    loss: float
    train_loss: float
    temperature: float = field(default=1.0, kw_only=True)
    set_scores: tuple[float, ...] = field(default=(), kw_only=True)

    def figures(self) -> dict[str, Any]:
        """Returns the step and the numbers by name."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if not isinstance(value, tuple)
        }

    @property
    def ranking_key(self) -> tuple[float, ...]:
        """The values that evaluations are compared by: the objective, then any tie-breaker."""
        return (self.top_1_accuracy,)


@dataclass(frozen=True)
class Measure:
    """How evaluations are computed from sums over the images, which add up over batches, devices and workers.

    Attributes:
        size: Number of sums.
        sums: ``sums(logits, classes, counted)`` -> float32 [size] of a batch, in a graph; ``counted``
            (float32 [batch]) is 0 for padding images.
        evaluation: ``evaluation(sums, step, train_loss, coverage)`` of the sums over all images, float64
            [size], and the coverage of label sets.
    """

    size: int
    sums: Callable[[Any, Any, Any], Any]
    evaluation: Callable[[NDArray[np.float64], int, float, float], Evaluation]


def _sums(logits: Any, classes: Any, counted: Any) -> Any:
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    # argmax as in serving: the lowest class wins a tie.
    correct = tf.equal(tf.argmax(logits, axis=-1), classes)
    in_top = tf.math.in_top_k(classes, logits, min(_TOP, logits.shape[1]))
    scalars = [
        tf.reduce_sum(counted * tf.cast(values, tf.float32))
        for values in (correct, in_top, loss, tf.ones_like(loss))
    ]
    return tf.concat(
        [
            tf.stack(scalars),
            class_sums(logits, classes, counted),
            margin_histogram(logits, classes, counted),
        ],
        axis=0,
    )


def _evaluation(sums: NDArray[np.float64], step: int, train_loss: float, coverage: float) -> Evaluation:
    correct, in_top, loss, count = sums[:_SCALARS].tolist()
    return Evaluation(
        step,
        correct / count,
        in_top / count,
        loss / count,
        train_loss,
        temperature=fit_temperature(sums[_SCALARS:_HISTOGRAM]),
        set_scores=lowest_scores(sums[None, _HISTOGRAM:], coverage),
    )


SINGLE_LABEL_MEASURE = Measure(_HISTOGRAM + INTERVALS, _sums, _evaluation)


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the model with its current weights.

    Attributes:
        evaluation_step: From ``build_evaluation_step``.
        batches: This worker's part of the validation images, (inputs, classes); must be re-iterable.
        accelerators: The devices.
        stopped: Whether the process has received a termination signal.
        measure: Computes the evaluation from the sums of ``evaluation_step``.
        coverage: The coverage of label sets.
    """

    evaluation_step: Callable[..., Any]
    batches: Iterable[tuple[Any, Any]]
    accelerators: Accelerators
    stopped: Callable[[], bool]
    measure: Measure
    coverage: float

    def evaluate(self, step: int, train_loss: float) -> Evaluation | None:
        """Returns the evaluation; None if a termination signal arrived in the meantime."""
        # In float64: a float32 counter stops at 16.7 million.
        sums = np.zeros(self.measure.size)
        for inputs, classes in self.batches:
            if self.stopped():
                return None
            sums += self._sums(inputs, classes)
        sums = self.accelerators.sum_over_workers(sums)
        return self.measure.evaluation(sums, step, train_loss, self.coverage)

    def _sums(self, inputs: Any, classes: Any) -> NDArray[np.float64]:
        accelerators, counted = self.accelerators, np.ones(len(classes), np.float32)
        if not accelerators.uses_strategy:
            return np.asarray(self.evaluation_step(inputs, classes, counted).numpy(), np.float64)
        # All devices take parts of equal size: the batch is padded with images that do not count.
        missing = -len(classes) % accelerators.local_replicas
        padded = (np.concatenate([array, np.repeat(array[:1], missing, 0)]) for array in (inputs, classes))
        batch = (*padded, np.pad(counted, (0, missing)))
        sums = self.evaluation_step(*accelerators.split_across_devices(batch))
        local = accelerators.strategy.experimental_local_results(sums)
        return np.asarray(np.sum([device.numpy() for device in local], axis=0, dtype=np.float64))
