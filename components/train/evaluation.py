"""What an evaluation during training finds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.train.accelerators import Accelerators


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found; the losses are mean cross-entropies in nats, without weight decay.

    Attributes:
        step: Training steps done.
        top_1_accuracy: Share of validation images whose class has the highest probability, 0..1.
        top_5_accuracy: Share whose class is among the five highest (all, if there are fewer), 0..1.
        loss: On the validation images, without label smoothing.
        train_loss: Mean over the training steps since the evaluation before, with label smoothing and
            class weights; 0 if there were none.
    """

    step: int
    top_1_accuracy: float
    top_5_accuracy: float
    loss: float
    train_loss: float

    @property
    def standing(self) -> tuple[float, ...]:
        """What is compared to find the best evaluation: the objective, then what decides a tie."""
        return (self.top_1_accuracy,)


@dataclass(frozen=True)
class Measure:
    """What is summed up over the images, and what is made of it.

    Attributes:
        sums: How many numbers the evaluation step gives.
        evaluation: Of the sums over all images (float64 [sums]), the step and the training loss.
    """

    sums: int
    evaluation: Callable[[NDArray[np.float64], int, float], Evaluation]


def _of_sums(sums: NDArray[np.float64], step: int, train_loss: float) -> Evaluation:
    correct, in_top, loss, count = sums.tolist()
    return Evaluation(step, correct / count, in_top / count, loss / count, train_loss)


SINGLE_LABEL_MEASURE = Measure(4, _of_sums)


class Evaluator:
    """Evaluates the model as it is now.

    Args:
        evaluation_step: Of ``build_evaluation_step``.
        batches: This worker's share of the validation images, (inputs, classes); can be gone through again
            for every evaluation.
        accelerators: The devices.
        stopped: Says whether the process was told to stop.
        measure: What the evaluation step gives.
    """

    def __init__(
        self,
        evaluation_step: Callable[..., Any],
        batches: Iterable[tuple[Any, Any]],
        accelerators: Accelerators,
        stopped: Callable[[], bool],
        measure: Measure = SINGLE_LABEL_MEASURE,
    ) -> None:
        self._step, self._batches = evaluation_step, batches
        self._accelerators, self._stopped, self._measure = accelerators, stopped, measure

    def evaluate(self, step: int, train_loss: float) -> Evaluation | None:
        """Returns what was found; None if the process was told to stop in the middle."""
        # Sums in float64: in float32 a count stops at 16.7 million.
        sums = np.zeros(self._measure.sums)
        for inputs, classes in self._batches:
            if self._stopped():
                return None
            sums += self._sums(inputs, classes)
        return self._measure.evaluation(self._accelerators.summed_over_workers(sums), step, train_loss)

    def _sums(self, inputs: Any, classes: Any) -> NDArray[np.float64]:
        accelerators, counted = self._accelerators, np.ones(len(classes), np.float32)
        if accelerators.replicas == 1:
            return np.asarray(self._step(inputs, classes, counted).numpy(), np.float64)
        # All devices take shares of one size; what is missing is filled up with images that do not count.
        missing = -len(classes) % accelerators.local_replicas
        padded = (np.concatenate([array, np.repeat(array[:1], missing, 0)]) for array in (inputs, classes))
        batch = (*padded, np.pad(counted, (0, missing)))
        shares = self._step(*accelerators.shared_out(batch))
        local = accelerators.strategy.experimental_local_results(shares)
        return np.asarray(np.sum([share.numpy() for share in local], axis=0, dtype=np.float64))
