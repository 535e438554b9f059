"""The training loop: steps, evaluations, checkpoints and the best weights."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import CheckFailedError, InterruptedRunError
from imgpipe.components.common.log import Progress, log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.common.termination import defer_termination
from imgpipe.components.common.tf_import import keras
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.checkpoints import Checkpoint, from_arrays, to_arrays
from imgpipe.components.train.evaluation import Evaluation, Evaluator
from imgpipe.components.train.multi_label_evaluation import evaluation_of
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.schedules import Schedule
from imgpipe.components.train.training_step import (
    MovingAverage,
    Trainable,
    build_evaluation_step,
    build_training_step,
    moving_average,
)

# The losses of several steps are fetched together, because each fetch waits for the device.
_SECONDS_BETWEEN_FETCHES = 1.0
_MAX_PENDING_LOSSES = 1000
# A machine that is lost costs this much work and one step, five minutes at most.
_SECONDS_BETWEEN_CHECKPOINTS = 240.0

Weights = list[NDArray[Any]]


@dataclass(frozen=True)
class TrainingInputs:
    """The function to train and its batches.

    Attributes:
        trainable: The function and its variables.
        training_batches: ``training_batches(k)`` returns endless batches (inputs, classes) from step k + 1
            on: this worker's part of each batch.
        evaluation_batches: This worker's part; re-iterable, since each evaluation iterates over it.
    """

    trainable: Trainable
    training_batches: Callable[[int], Iterable[tuple[Any, Any]]]
    evaluation_batches: Iterable[tuple[Any, Any]]


@dataclass(frozen=True)
class LoopResult:
    """The result of a training run.

    Attributes:
        evaluations: All evaluations in order.
        best: The evaluation with the highest top-1 accuracy, the earliest on a tie. In a multi-label data
            set, the mean average precision is compared before the step.
        end_reason: Why the training ended.
    """

    evaluations: tuple[Evaluation, ...]
    best: Evaluation
    end_reason: str


@dataclass(frozen=True)
class Callbacks:
    """Called by the loop; each may be None.

    Attributes:
        report: Called with all evaluations after each evaluation.
        save: Called with a checkpoint after each evaluation, every few minutes, and when the process is asked
            to terminate.
        save_best: Called with the step and the weights (in the order of ``Trainable.variables``) of each
            evaluation that is better than all previous ones, before the checkpoint that refers to it.
        publisher: Publishes the model while it has such weights, and the best one if the training diverges.
        stop: Called with all evaluations after each evaluation; a non-empty return value is the reason to end
            the training.
    """

    report: Callable[[Sequence[Evaluation]], None] | None = None
    save: Callable[[Checkpoint], None] | None = None
    save_best: Callable[[int, Weights], None] | None = None
    publisher: Publisher | None = None
    stop: Callable[[Sequence[Evaluation]], str] | None = None


@dataclass(frozen=True)
class SavedTraining:
    """What an interrupted training run resumes from.

    Attributes:
        checkpoint: The last argument of ``Callbacks.save``.
        best_weights: The last weights passed to ``Callbacks.save_best`` before it; None if there were none.
    """

    checkpoint: Checkpoint
    best_weights: Weights | None


@dataclass
class _Progress:
    """The progress of a training run; saved in checkpoints."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    end_reason: str = ""

    @property
    def best(self) -> Evaluation | None:
        # max() returns the first of equal items, i.e. the earliest.
        return max(self.evaluations, key=lambda evaluation: evaluation.ranking_key, default=None)

    @property
    def is_evaluated(self) -> bool:
        return bool(self.evaluations) and self.evaluations[-1].step == self.step

    @property
    def evaluations_since_best(self) -> int:
        best = self.best
        return len(self.evaluations) - 1 - self.evaluations.index(best) if best else 0


class _Training:
    """The state of a training run that has started."""

    def __init__(
        self,
        trainable: Trainable,
        optimizer: keras.optimizers.Optimizer,
        arguments: TrainingArguments,
        accelerators: Accelerators,
        callbacks: Callbacks,
    ) -> None:
        self.trainable, self.optimizer, self.arguments = trainable, optimizer, arguments
        self.accelerators, self.callbacks = accelerators, callbacks
        with accelerators.strategy.scope():
            # Built beforehand, so that the step is traced once: Keras would create the optimizer's variables
            # in the first trace and trace again without their creation.
            optimizer.build(trainable.trained)
            self.average: MovingAverage | None = moving_average(arguments.ema, trainable.variables)
        self.training_step = build_training_step(trainable, optimizer, arguments, accelerators, self.average)
        self.progress = _Progress()
        self.best_weights: Weights = []
        self.pending_losses: list[Any] = []
        self.fetched = self.started = self.save_time = time.monotonic()
        self.earlier_seconds = 0.0
        self.saved: tuple[int, int] | None = None

    def restore(self, saved: SavedTraining) -> None:
        arrays, state = saved.checkpoint.arrays, saved.checkpoint.state
        for prefix, variables in self._variables().items():
            for variable, value in zip(variables, from_arrays(prefix, arrays), strict=True):
                variable.assign(value)
        self.progress = _Progress(
            saved.checkpoint.step,
            state["seconds"],
            list(state["losses"]),
            [evaluation_of(values) for values in state["evaluations"]],
        )
        self.earlier_seconds = state["seconds"]
        self.saved = self._version()
        self.best_weights = saved.best_weights or []

    def take_step(self, batch: tuple[Any, Any]) -> None:
        self.pending_losses.append(self.training_step(*self.accelerators.split_across_devices(batch)))
        self.progress.step += 1
        is_due = time.monotonic() - self.fetched >= _SECONDS_BETWEEN_FETCHES
        if is_due or len(self.pending_losses) >= _MAX_PENDING_LOSSES:
            self.fetch_losses()

    def fetch_losses(self) -> None:
        """Waits for the steps taken so far.

        Raises:
            CheckFailedError: naming the first step with a loss that is not finite.
        """
        first = self.progress.step - len(self.pending_losses) + 1
        losses = [float(loss.numpy()) for loss in self.pending_losses]
        self.pending_losses.clear()
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise self._divergence_error("training", step)
        self.progress.losses += losses
        self.fetched = time.monotonic()
        self.progress.seconds = self.earlier_seconds + self.fetched - self.started

    def evaluate(self, evaluator: Evaluator) -> None:
        """Evaluates, unless the process is asked to terminate in the meantime.

        Raises:
            CheckFailedError: if the loss is not finite.
        """
        self.fetch_losses()
        losses = self.progress.losses
        if self.average is not None:
            self.average.swap()
        try:
            evaluation = evaluator.evaluate(self.progress.step, float(np.mean(losses)) if losses else 0.0)
            if evaluation is not None:
                self.record(evaluation)
        finally:
            if self.average is not None:
                self.average.swap()

    def record(self, evaluation: Evaluation) -> None:
        """Adds an evaluation of the current weights."""
        # The last step may have ruined the weights. JSON cannot represent the loss, and the accuracy
        # would be the fraction of class 0.
        if not math.isfinite(evaluation.loss):
            raise self._divergence_error("validation", self.progress.step)
        best = self.progress.best
        self.progress.evaluations.append(evaluation)
        self.progress.losses.clear()
        callbacks = self.callbacks
        if best is None or evaluation.ranking_key > best.ranking_key:
            self.best_weights = [
                self.accelerators.local_value(variable) for variable in self.trainable.variables
            ]
            if callbacks.save_best:
                callbacks.save_best(evaluation.step, self.best_weights)
        if callbacks.report:
            callbacks.report(self.progress.evaluations)
        if self.progress.best is evaluation and callbacks.publisher and callbacks.publisher.is_due():
            callbacks.publisher.publish(self.progress.evaluations, evaluation)

    def restore_best_weights(self) -> None:
        for variable, value in zip(self.trainable.variables, self.best_weights, strict=True):
            variable.assign(value)

    def publish_best(self) -> None:
        """Restores the best weights and publishes them, unless they are already published."""
        best, publisher = self.progress.best, self.callbacks.publisher
        if best is None:
            return
        self.restore_best_weights()
        if publisher and publisher.published_step != best.step:
            publisher.publish(self.progress.evaluations, best)

    def save(self) -> None:
        if not self.callbacks.save or self.saved == self._version():
            return
        self.fetch_losses()
        arrays: dict[str, NDArray[Any]] = {}
        for prefix, variables in self._variables().items():
            values = [self.accelerators.local_value(variable) for variable in variables]
            arrays |= to_arrays(prefix, variables, values)
        progress = self.progress
        state: dict[str, Any] = {
            "seconds": progress.seconds,
            "losses": list(progress.losses),
            "evaluations": [dataclasses.asdict(evaluation) for evaluation in progress.evaluations],
        }
        if progress.best:
            state["best_step"] = progress.best.step
        self.callbacks.save(Checkpoint(progress.step, arrays, state))
        self.saved = self._version()
        self.save_time = time.monotonic()

    def is_save_due(self) -> bool:
        """Whether the last checkpoint is so old that the work since then should not be lost."""
        return time.monotonic() - self.save_time >= _SECONDS_BETWEEN_CHECKPOINTS

    def find_end_reason(self) -> str:
        """Returns why the training ends after an evaluation; empty to continue."""
        arguments, progress = self.arguments, self.progress
        if progress.step >= arguments.max_steps:
            return f"reached max_steps={arguments.max_steps}"
        patience = arguments.early_stopping_patience
        if patience and progress.evaluations_since_best >= patience:
            best_step = progress.best.step  # type: ignore[union-attr]
            return f"no improvement on step {best_step} in the last {plural(patience, 'evaluation')}"
        # All workers end together, as soon as one of them is out of time.
        if (
            arguments.max_duration
            and self.accelerators.sum_over_workers(np.array([float(self._max_duration_reached())]))[0]
        ):
            return f"reached max_duration={arguments.max_duration} seconds"
        return self.callbacks.stop(progress.evaluations) if self.callbacks.stop else ""

    def is_out_of_time(self) -> bool:
        """Whether max_duration is over. Several workers can only agree on it at evaluations."""
        return self.accelerators.workers == 1 and self._max_duration_reached()

    def _max_duration_reached(self) -> bool:
        limit = self.arguments.max_duration
        return bool(limit) and self.earlier_seconds + time.monotonic() - self.started >= limit

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 1."""
        return float(Schedule(self.arguments)(step - 1))

    def _version(self) -> tuple[int, int]:
        """Identifies the state, so that it is not saved twice."""
        return self.progress.step, len(self.progress.evaluations)

    def _variables(self) -> dict[str, list[Any]]:
        averages = self.average.averages if self.average else []
        return {
            "model": self.trainable.variables,
            "optimizer": self.optimizer.variables,
            "average": averages,
        }

    def _divergence_error(self, loss_name: str, step: int) -> CheckFailedError:
        best = self.progress.best
        kept = f"; the model of step {best.step} is kept" if best and self.callbacks.save_best else ""
        return CheckFailedError(
            f"the {loss_name} loss is NaN or infinite at step {step} "
            f"(learning rate {self.learning_rate(step):.3g}){kept}",
            remedy="lower initial_learning_rate, or set warmup_steps to increase the rate slowly",
        )


def run_loop(
    inputs: TrainingInputs,
    optimizer: keras.optimizers.Optimizer,
    arguments: TrainingArguments,
    accelerators: Accelerators,
    *,
    callbacks: Callbacks | None = None,
    resume_from: SavedTraining | None = None,
    first_evaluation: Evaluation | None = None,
) -> LoopResult:
    """Trains up to ``max_steps`` steps, with evaluations in between and after the last step.

    When it returns, the variables have the weights of the best evaluation.

    Args:
        inputs: The function to train and its batches.
        optimizer: The optimizer, including its learning rate schedule.
        arguments: The settings.
        accelerators: The devices.
        callbacks: Called during the training.
        resume_from: The state to resume from; None to start from the beginning.
        first_evaluation: The evaluation of the initial weights, as step 0; None if they are not worth one.

    Raises:
        CheckFailedError: if the loss of a step or of an evaluation is not finite. The variables have the best
            weights so far.
        InterruptedRunError: if the process is asked to terminate (SIGTERM, Ctrl-C); a checkpoint was saved.
    """
    trainable = inputs.trainable
    training = _Training(trainable, optimizer, arguments, accelerators, callbacks or Callbacks())
    if resume_from is not None:
        training.restore(resume_from)
    elif first_evaluation is not None:
        training.record(first_evaluation)
        training.save()
    with defer_termination() as stopped:
        evaluator = Evaluator(
            build_evaluation_step(trainable, accelerators),
            inputs.evaluation_batches,
            accelerators,
            stopped,
            trainable.measure,
            arguments.label_set_coverage,
        )
        try:
            _train(training, inputs.training_batches, evaluator, stopped)
        except CheckFailedError:
            training.publish_best()
            raise
        training.restore_best_weights()
        progress = training.progress
        assert progress.best is not None  # noqa: S101 - the last step was evaluated
    return LoopResult(tuple(progress.evaluations), progress.best, progress.end_reason)


def _train(
    training: _Training,
    training_batches: Callable[[int], Iterable[tuple[Any, Any]]],
    evaluator: Evaluator,
    stopped: Callable[[], bool],
) -> None:
    arguments, progress = training.arguments, training.progress
    steps_per_eval = arguments.resolved_steps_per_eval()
    progress_log = Progress("train", arguments.max_steps, "steps", initial=progress.step)
    batches = iter(training_batches(progress.step))
    while not progress.end_reason:
        is_due = progress.step >= arguments.max_steps or (
            progress.step > 0 and progress.step % steps_per_eval == 0
        )
        # Before an evaluation, which may take minutes.
        if training.is_save_due():
            training.save()
        if (is_due or training.is_out_of_time()) and not progress.is_evaluated and not stopped():
            training.evaluate(evaluator)
        if progress.is_evaluated:
            progress.end_reason = training.find_end_reason()
            training.save()
        if not progress.end_reason and stopped():
            training.save()
            raise InterruptedRunError(
                f"train was interrupted at step {progress.step:,} of {arguments.max_steps:,}",
                remedy="start it again with the same job_dir to resume"
                if training.callbacks.save
                else "start it again; set job_dir to be able to resume",
            )
        if not progress.end_reason:
            training.take_step(next(batches))
            if progress_log.is_due():
                training.fetch_losses()
                rate = training.learning_rate(progress.step)
                progress_log.update(progress.step, loss=progress.losses[-1], learning_rate=rate)
    log_event("training_ended", f"train: {progress.end_reason}", training_step=progress.step)
