"""How a training run starts: with what weights, with how many steps, and what it decides before the first."""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.augmentation import MILD_CROP
from imgpipe.components.train.checkpoints import Checkpoint
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.head_first import (
    MIN_EPOCHS,
    head_arguments,
    mirroring_changes_labels,
    train_head,
)
from imgpipe.components.train.job import Job
from imgpipe.components.train.loop import TrainingInputs
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import Classifier, set_batch_normalization_momentum
from imgpipe.components.train.recipes import AUTO, FROZEN, HEAD_FIRST, UNSET
from imgpipe.components.train.resolution import (
    EVALUATION_COST,
    has_measured_steps,
    resolve_arguments,
    steps_within,
)
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.training_inputs import LocalData, image_trainable, training_inputs
from imgpipe.components.train.training_step import Trainable, build_training_step

# Steps by which the speed of a machine is measured.
_MEASURED_STEPS = 5


@dataclass(frozen=True)
class Start:
    """How a training run starts, with what it has decided and why.

    Attributes:
        arguments: The resolved arguments.
        classifier: With the weights to start from.
        inputs: The loop's inputs.
        evaluation: That of the initial weights; None if they are not worth one.
        decisions: Sentences.
    """

    arguments: TrainingArguments
    classifier: Classifier
    inputs: TrainingInputs
    evaluation: Evaluation | None
    decisions: list[str]


def start_head_first(
    job: Job,
    given: TrainingArguments,
    classifier: Classifier,
    data: LocalData,
    end: float,
    has_default_budget: bool,
) -> Start:
    """Decides whether there is time for fine-tuning, trains the head, and decides on mirroring.

    Args:
        job: With resolved arguments.
        given: The arguments, in which those that are left to the recipe are not resolved.
        classifier: The network.
        data: The data set.
        end: When the time budget ends, as ``time.monotonic``.
        has_default_budget: Whether the time budget is not the user's.
    """
    arguments, decisions, fit = job.arguments, [], None
    inputs = training_inputs(classifier, arguments, data, job.accelerators)
    changed: dict[str, Any] = {}
    if has_measured_steps(given):
        origin = f"the default on a {job.accelerators.kind}; " if has_default_budget else ""
        log_event(
            "time_budget",
            f"train: {arguments.max_minutes:g} min ({origin}max_minutes changes it): measuring how many "
            "steps fit",
            minutes=arguments.max_minutes,
        )
        fit = _measure_fine_tuning(job, given, classifier, inputs, data, end)
        epochs = fit.steps * arguments.train_batch_size / data.size.images
        if fit.steps < arguments.max_steps and epochs < MIN_EPOCHS:
            decision = (
                f"only the last layer is trained: a step of {fit.part} takes {fit.seconds_per_step:.2g} "
                f"seconds, so {epochs:.1f} epochs of it would fit into {arguments.max_minutes:g} min, "
                f"and fewer than {MIN_EPOCHS:g} gain nothing"
            )
            return _start_frozen(job, given, classifier, data, end, has_default_budget, decision)
        changed["freeze"] = fit.classifier.freeze
        classifier, inputs = fit.classifier, dataclasses.replace(inputs, trainable=fit.trainable)
        decisions.append(
            f"the last layer is trained first, then {fit.part}: {fit.steps:,} steps of "
            f"{fit.seconds_per_step:.2g} seconds, {epochs:.1f} epochs, fit into {arguments.max_minutes:g} "
            f"min, {arguments.max_steps:,} steps are planned without a limit"
        )
        _log_decision(decisions[-1])
    evaluation = train_head(classifier, head_arguments(arguments, data.size), data, job.accelerators)
    if given.augmentation == AUTO and mirroring_changes_labels(
        classifier, inputs.evaluation_batches, data.validation_images(arguments), job.accelerators
    ):
        changed["augmentation"] = MILD_CROP
        decisions.append("images are cropped but not mirrored: mirrored, they are classified less accurately")
        _log_decision(decisions[-1])
    if fit is not None:
        steps = _steps_until(end, job, data, fit.seconds_per_step)
        changed["max_steps"] = max(steps, given.warmup_steps + 1)
    if changed:
        arguments = resolve_arguments(dataclasses.replace(given, **changed), data.manifest)
    if "augmentation" in changed:
        inputs = training_inputs(classifier, arguments, data, job.accelerators)
    set_batch_normalization_momentum(classifier, arguments.max_steps)
    return Start(arguments, classifier, inputs, evaluation, decisions)


@dataclass(frozen=True)
class _FineTuning:
    """A fine-tuning whose speed was measured.

    Attributes:
        classifier: With what is frozen.
        trainable: The function to train.
        part: What is trained, in words.
        seconds_per_step: The duration of a step.
        steps: How many fit into the time budget after the training of the head.
    """

    classifier: Classifier
    trainable: Trainable
    part: str
    seconds_per_step: float
    steps: int


def _measure_fine_tuning(
    job: Job,
    given: TrainingArguments,
    classifier: Classifier,
    inputs: TrainingInputs,
    data: LocalData,
    end: float,
) -> _FineTuning:
    """Measures the whole network and, if not all planned steps of it fit into the time, its later stages.

    The first stages, on the largest feature maps, take up to half of the time and change least.
    """
    arguments = job.arguments
    images = data.size.images + data.validation_images(arguments)
    freezes = [arguments.freeze]
    if given.freeze == AUTO:
        stages = MODEL_TYPES[arguments.model_type].stage_names
        freezes.append(stages[len(stages) // 3])
    for freeze in freezes:
        part = "the whole network" if freeze == "none" else f"the network after {freeze}"
        frozen = dataclasses.replace(classifier, freeze=freeze)
        trainable = image_trainable(frozen, arguments, data.manifest)
        seconds_per_step = _seconds_per_step(job, dataclasses.replace(inputs, trainable=trainable))
        if freeze == freezes[0]:
            for_head = images / arguments.train_batch_size * seconds_per_step * EVALUATION_COST
        steps = _steps_until(end - for_head, job, data, seconds_per_step)
        found = _FineTuning(frozen, trainable, part, seconds_per_step, steps)
        if steps >= arguments.max_steps:
            break
    return found


def _start_frozen(
    job: Job,
    given: TrainingArguments,
    classifier: Classifier,
    data: LocalData,
    end: float,
    has_default_budget: bool,
    decision: str,
) -> Start:
    """Returns the start of the recipe frozen-backbone; the arguments are those of ``start_head_first``."""
    _log_decision(decision)
    # A budget that the user has not set does not limit this.
    given = dataclasses.replace(
        given, recipe=FROZEN, max_minutes=0.0 if has_default_budget else given.max_minutes
    )
    job = dataclasses.replace(job, arguments=resolve_arguments(given, data.manifest))
    classifier = dataclasses.replace(classifier, freeze=job.arguments.freeze)
    arguments = job.arguments
    inputs = training_inputs(classifier, arguments, data, job.accelerators)
    if has_measured_steps(given):
        arguments = with_measured_steps(job, given, inputs, data, end)
    return Start(arguments, classifier, inputs, None, [decision])


def _log_decision(sentence: str) -> None:
    log_event("decision", f"train: {sentence}")


def as_before(
    given: TrainingArguments, arguments: TrainingArguments, checkpoint: Checkpoint
) -> TrainingArguments:
    """Returns the arguments with what was decided before an interruption.

    Args:
        given: The arguments, in which those that are left to the recipe are not resolved.
        arguments: The resolved arguments.
        checkpoint: That of the interrupted training run.
    """
    before = checkpoint.state["training"]
    # The learning rate follows the schedule of before the interruption.
    kept: dict[str, Any] = {}
    if given.warmup_steps == UNSET:
        kept["warmup_steps"] = int(before["warmup_steps"])
    if has_measured_steps(given):
        kept["max_steps"] = int(checkpoint.state["max_steps"])
    if arguments.recipe == HEAD_FIRST:
        if given.freeze == AUTO and before["freeze"] == "backbone":
            kept["recipe"] = FROZEN
        else:
            left = [name for name in ("freeze", "augmentation") if getattr(given, name) == AUTO]
            kept |= {name: before[name] for name in left}
    return dataclasses.replace(given, **kept)


def with_measured_steps(
    job: Job, given: TrainingArguments, inputs: TrainingInputs, data: LocalData, end: float
) -> TrainingArguments:
    """Returns the arguments with as many steps as fit into the time budget."""
    seconds_per_step = _seconds_per_step(job, inputs)
    steps = _steps_until(end, job, data, seconds_per_step)
    log_event(
        "steps_measured",
        f"train: {seconds_per_step:.3g} seconds per step: max_minutes={job.arguments.max_minutes:g} is "
        f"enough for {plural(steps, 'step')}; {job.arguments.max_steps:,} without a time limit",
        max_steps=steps,
        seconds_per_step=seconds_per_step,
    )
    steps = max(steps, given.warmup_steps + 1)
    return resolve_arguments(dataclasses.replace(given, max_steps=steps), data.manifest)


def _seconds_per_step(job: Job, inputs: TrainingInputs) -> float:
    """Takes a few steps, undoes them, and returns the duration of one."""
    arguments, accelerators, trainable = job.arguments, job.accelerators, inputs.trainable
    values = [accelerators.local_value(variable) for variable in trainable.variables]
    with accelerators.strategy.scope():
        optimizer = build_optimizer(arguments, job.precision)
        optimizer.build(trainable.trained)
    step = build_training_step(trainable, optimizer, arguments, accelerators)
    batch = next(iter(inputs.training_batches(0)))

    def take_step() -> None:
        step(*accelerators.split_across_devices(batch)).numpy()

    # The first step includes tracing.
    take_step()
    before = time.monotonic()
    for _ in range(_MEASURED_STEPS):
        take_step()
    measured = np.array([(time.monotonic() - before) / _MEASURED_STEPS])
    for variable, value in zip(trainable.variables, values, strict=True):
        variable.assign(value)
    # The workers must agree.
    return float(accelerators.sum_over_workers(measured)[0]) / accelerators.workers


def _steps_until(end: float, job: Job, data: LocalData, seconds_per_step: float) -> int:
    """Returns how many steps, with their evaluations, fit into the time until ``end``."""
    accelerators, arguments = job.accelerators, job.arguments
    # The workers must agree.
    seconds = float(accelerators.sum_over_workers(np.array([end - time.monotonic()]))[0])
    return steps_within(
        seconds / accelerators.workers,
        arguments,
        seconds_per_step=seconds_per_step,
        validation_batches=math.ceil(data.validation_images(arguments) / arguments.train_batch_size),
    )
