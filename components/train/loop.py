"""The training loop: steps, evaluations between them, checkpoints, and the best evaluation's weights."""

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
from imgpipe.components.common.termination import defer_termination
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.checkpoints import Checkpoint, named, values_of
from imgpipe.components.train.evaluation import Evaluation, Evaluator
from imgpipe.components.train.multi_label_evaluation import evaluation_of
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.schedules import build_schedule
from imgpipe.components.train.training_step import (
    MovingAverage,
    Trainable,
    build_evaluation_step,
    build_training_step,
    moving_average,
)

# The losses of steps are asked for together: each question waits for the device.
_SECONDS_BETWEEN_LOSSES = 1.0
_STEPS_BETWEEN_LOSSES = 1000

Weights = list[NDArray[Any]]


@dataclass(frozen=True)
class LoopResult:
    """What a training came to.

    Attributes:
        evaluations: All of them, in order.
        best: The one with the highest top-1 accuracy, the earliest on a tie (in a multi-label data set the
            one with the higher mean average precision, then the earliest).
        ended: Why it ended.
        seconds: Of training, evaluations included, interrupted parts too.
    """

    evaluations: tuple[Evaluation, ...]
    best: Evaluation
    ended: str
    seconds: float


@dataclass(frozen=True)
class Hooks:
    """Whom the loop tells what it does; each may be None.

    Attributes:
        report: Gets all evaluations after each of them.
        save: Gets a checkpoint after each evaluation and when the process is told to stop.
        save_best: Gets the step and the weights (in the order of ``Trainable.kept``) of each evaluation
            that is better than all before, before the checkpoint that names it.
        publisher: Publishes the model while it holds such weights, and the best one if the training
            diverges.
        stop: Gets all evaluations after each of them; a text is the reason to end the training there.
    """

    report: Callable[[Sequence[Evaluation]], None] | None = None
    save: Callable[[Checkpoint], None] | None = None
    save_best: Callable[[int, Weights], None] | None = None
    publisher: Publisher | None = None
    stop: Callable[[Sequence[Evaluation]], str] | None = None


@dataclass(frozen=True)
class Start:
    """Where an interrupted training goes on.

    Attributes:
        checkpoint: What ``Hooks.save`` got last.
        best_weights: What ``Hooks.save_best`` got last before it; None if it got nothing.
    """

    checkpoint: Checkpoint
    best_weights: Weights | None


@dataclass
class _Progress:
    """What has been done; goes into checkpoints."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    ended: str = ""

    @property
    def best(self) -> Evaluation | None:
        # max() takes the first of equals: the earliest.
        return max(self.evaluations, key=lambda each: each.standing, default=None)

    @property
    def evaluated(self) -> bool:
        return bool(self.evaluations) and self.evaluations[-1].step == self.step

    @property
    def evaluations_without_a_better_one(self) -> int:
        best = self.best
        return len(self.evaluations) - 1 - self.evaluations.index(best) if best else 0


class _Training:
    """One training on its way."""

    def __init__(
        self,
        trainable: Trainable,
        optimizer: keras.optimizers.Optimizer,
        arguments: TrainingArguments,
        accelerators: Accelerators,
        hooks: Hooks,
    ) -> None:
        self.trainable, self.optimizer, self.arguments = trainable, optimizer, arguments
        self.accelerators, self.hooks = accelerators, hooks
        with accelerators.strategy.scope():
            # Built beforehand, so that the step is traced once: Keras otherwise makes the optimizer's
            # variables in the first trace and traces again without them.
            optimizer.build(trainable.trained)
            self.average: MovingAverage | None = moving_average(arguments.ema, trainable.kept)
        self.training_step = build_training_step(trainable, optimizer, arguments, accelerators, self.average)
        self.progress = _Progress()
        self.best_weights: Weights = []
        self.pending: list[Any] = []
        self.losses_asked_for = self.resumed = time.monotonic()
        self.earlier_seconds = 0.0
        self.saved: tuple[int, int] | None = None
        self.published_step = 0

    def go_on_from(self, start: Start) -> None:
        arrays, state = start.checkpoint.arrays, start.checkpoint.state
        for prefix, variables in self._variables().items():
            for variable, value in zip(variables, values_of(prefix, arrays), strict=True):
                variable.assign(value)
        self.progress = _Progress(
            start.checkpoint.step,
            state["seconds"],
            list(state["losses"]),
            [evaluation_of(each) for each in state["evaluations"]],
        )
        self.earlier_seconds = state["seconds"]
        self.saved = self._mark()
        self.best_weights = start.best_weights or []

    def take_step(self, batch: tuple[Any, Any]) -> None:
        self.pending.append(self.training_step(*self.accelerators.shared_out(batch)))
        self.progress.step += 1
        long_ago = time.monotonic() - self.losses_asked_for >= _SECONDS_BETWEEN_LOSSES
        if long_ago or len(self.pending) >= _STEPS_BETWEEN_LOSSES:
            self.ask_for_losses()

    def ask_for_losses(self) -> None:
        """Waits for the steps taken so far.

        Raises:
            CheckFailedError: naming the first step whose loss is no number.
        """
        first = self.progress.step - len(self.pending) + 1
        losses = [float(loss.numpy()) for loss in self.pending]
        self.pending.clear()
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise self._diverged("training", step)
        self.progress.losses += losses
        self.losses_asked_for = time.monotonic()
        self.progress.seconds = self.earlier_seconds + self.losses_asked_for - self.resumed

    def evaluate(self, evaluator: Evaluator) -> None:
        """Evaluates, unless the process is told to stop meanwhile.

        Raises:
            CheckFailedError: if the loss is no number.
        """
        self.ask_for_losses()
        losses = self.progress.losses
        if self.average is not None:
            self.average.exchange()
        try:
            evaluation = evaluator.evaluate(self.progress.step, float(np.mean(losses)) if losses else 0.0)
            if evaluation is None:
                return
            # The step just done may be the one that went wrong: a loss that JSON has no word for, and
            # an accuracy that is the share of class 0.
            if not math.isfinite(evaluation.loss):
                raise self._diverged("validation", self.progress.step)
            before = self.progress.best
            self.progress.evaluations.append(evaluation)
            losses.clear()
            if before is None or evaluation.standing > before.standing:
                self.best_weights = [self.accelerators.value_of(v) for v in self.trainable.kept]
                if self.hooks.save_best:
                    self.hooks.save_best(evaluation.step, self.best_weights)
            if self.hooks.report:
                self.hooks.report(self.progress.evaluations)
            if self.progress.best is evaluation and self.hooks.publisher and self.hooks.publisher.is_due():
                self._publish(self.hooks.publisher, evaluation)
        finally:
            if self.average is not None:
                self.average.exchange()

    def publish_best(self) -> None:
        """Puts the best weights back and publishes them, if they were not."""
        best = self.progress.best
        if best is None:
            return
        for variable, value in zip(self.trainable.kept, self.best_weights, strict=True):
            variable.assign(value)
        if self.hooks.publisher and self.published_step != best.step:
            self._publish(self.hooks.publisher, best)

    def _publish(self, publisher: Publisher, best: Evaluation) -> None:
        publisher.publish(self.progress.evaluations, best)
        self.published_step = best.step

    def save(self) -> None:
        if not self.hooks.save or self.saved == self._mark():
            return
        self.ask_for_losses()
        arrays: dict[str, NDArray[Any]] = {}
        for prefix, variables in self._variables().items():
            arrays |= named(prefix, variables, [self.accelerators.value_of(v) for v in variables])
        progress = self.progress
        state: dict[str, Any] = {
            "seconds": progress.seconds,
            "losses": progress.losses,
            "evaluations": [dataclasses.asdict(evaluation) for evaluation in progress.evaluations],
        }
        if progress.best:
            state["best_step"] = progress.best.step
        self.hooks.save(Checkpoint(progress.step, arrays, state))
        self.saved = self._mark()

    def reason_to_end(self) -> str:
        """Returns why the training is over after an evaluation; empty if it is not."""
        arguments, progress = self.arguments, self.progress
        if progress.step >= arguments.max_steps:
            return f"max_steps={arguments.max_steps} is reached"
        patience = arguments.early_stopping_patience
        if patience and progress.evaluations_without_a_better_one >= patience:
            return f"the last {patience} evaluations were not better than that of step {progress.best.step}"  # type: ignore[union-attr]
        # All workers end together: when it is time for one of them.
        if (
            arguments.max_duration
            and self.accelerators.summed_over_workers(np.array([float(self._seconds_over())]))[0]
        ):
            return f"max_duration={arguments.max_duration} seconds are over"
        return self.hooks.stop(progress.evaluations) if self.hooks.stop else ""

    def is_out_of_time(self) -> bool:
        """Whether max_duration is over, asked between evaluations: several workers agree only at them."""
        return self.accelerators.workers == 1 and self._seconds_over()

    def _seconds_over(self) -> bool:
        limit = self.arguments.max_duration
        return bool(limit) and self.earlier_seconds + time.monotonic() - self.resumed >= limit

    def learning_rate(self, step: int) -> float:
        """Returns the rate with which a step, counted from 1, was taken."""
        return float(build_schedule(self.arguments)(step - 1))

    def _mark(self) -> tuple[int, int]:
        return self.progress.step, len(self.progress.evaluations)

    def _variables(self) -> dict[str, list[Any]]:
        averages = self.average.averages if self.average else []
        return {"model": self.trainable.kept, "optimizer": self.optimizer.variables, "average": averages}

    def _diverged(self, which: str, step: int) -> CheckFailedError:
        best = self.progress.best
        kept = f"; the model of step {best.step} is kept" if best and self.hooks.save_best else ""
        return CheckFailedError(
            f"the {which} loss is not a number any more at step {step} "
            f"(learning rate {self.learning_rate(step):.3g}){kept}",
            remedy="lower initial_learning_rate, or give warmup_steps so that the rate rises slowly",
        )


def run_loop(
    trainable: Trainable,
    optimizer: keras.optimizers.Optimizer,
    arguments: TrainingArguments,
    training_batches: Callable[[int], Iterable[tuple[Any, Any]]],
    evaluation_batches: Iterable[tuple[Any, Any]],
    *,
    accelerators: Accelerators | None = None,
    hooks: Hooks | None = None,
    start: Start | None = None,
) -> LoopResult:
    """Trains up to ``max_steps`` steps, evaluates on the way and after the last one.

    When it returns, the variables hold the weights of the best evaluation.

    Args:
        trainable: What to train.
        optimizer: With its learning rate schedule.
        arguments: Steps, smoothing, decay, when to stop.
        training_batches: ``training_batches(k)`` gives (inputs, classes) for ever, from the batch of
            step k + 1 on: this worker's share of each batch.
        evaluation_batches: This worker's share; can be gone through again for every evaluation.
        accelerators: The devices; None for those of the current process, as one.
        hooks: Whom to tell.
        start: Where to go on; None to begin.

    Raises:
        CheckFailedError: if the loss of a step or of an evaluation is not finite. The variables hold the
            best weights so far.
        InterruptedRunError: if the process is told to stop (SIGTERM, Ctrl-C); a checkpoint was saved.
    """
    accelerators = accelerators or Accelerators(tf.distribute.get_strategy(), "CPU")
    training = _Training(trainable, optimizer, arguments, accelerators, hooks or Hooks())
    if start is not None:
        training.go_on_from(start)
    with defer_termination() as stopped:
        evaluator = Evaluator(
            build_evaluation_step(trainable, accelerators),
            evaluation_batches,
            accelerators,
            stopped,
            trainable.measure,
        )
        begun = training.progress.step
        try:
            _train_to_the_end(training, training_batches, evaluator, stopped)
        except CheckFailedError:
            training.publish_best()
            raise
        for variable, value in zip(trainable.kept, training.best_weights, strict=True):
            variable.assign(value)
        progress = training.progress
        assert progress.best is not None  # noqa: S101 - the last step was evaluated
        if start is not None and progress.step == begun:
            # Nothing was left to train: the model is evaluated once more, here and now.
            again = evaluator.evaluate(progress.best.step, progress.best.train_loss)
            if again is not None:
                log_event(
                    "evaluated_again",
                    f"train: nothing is left to train; the model of step {again.step:,} has now "
                    f"top-1 accuracy {again.top_1_accuracy:.4f}, then {progress.best.top_1_accuracy:.4f}",
                    training_step=again.step,
                    top_1_accuracy=again.top_1_accuracy,
                )
    return LoopResult(tuple(progress.evaluations), progress.best, progress.ended, progress.seconds)


def _train_to_the_end(
    training: _Training,
    training_batches: Callable[[int], Iterable[tuple[Any, Any]]],
    evaluator: Evaluator,
    stopped: Callable[[], bool],
) -> None:
    arguments, progress = training.arguments, training.progress
    every = arguments.resolved_steps_per_eval()
    shown = Progress("train", arguments.max_steps, "steps", initial=progress.step)
    batches = iter(training_batches(progress.step))
    while not progress.ended:
        due = progress.step >= arguments.max_steps or (progress.step > 0 and progress.step % every == 0)
        if (due or training.is_out_of_time()) and not progress.evaluated and not stopped():
            training.evaluate(evaluator)
        if progress.evaluated:
            progress.ended = training.reason_to_end()
            training.save()
        if not progress.ended and stopped():
            training.save()
            raise InterruptedRunError(
                f"train was told to stop at step {progress.step:,} of {arguments.max_steps:,}",
                remedy="start it again: with the same job_dir it goes on from there"
                if training.hooks.save
                else "start it again; with a job_dir it would go on where it was",
            )
        if not progress.ended:
            training.take_step(next(batches))
            if shown.is_due():
                training.ask_for_losses()
                rate = training.learning_rate(progress.step)
                shown.update(progress.step, loss=progress.losses[-1], learning_rate=rate)
    log_event("training_ended", f"train: {progress.ended}", training_step=progress.step)
