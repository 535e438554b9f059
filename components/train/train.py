"""Trains a classifier on a data set and writes the SavedModel of its best evaluation."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError, InvalidDataError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.mlflow import MlflowRun, current_run
from imgpipe.components.common.shared_arguments import multi_label_problem, multi_label_remedy
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.storage import check_empty, parse_location
from imgpipe.components.train.accelerators import Accelerators, find_accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.augmentation import MILD_CROP
from imgpipe.components.train.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    check_same_training,
    from_arrays,
    to_arrays,
)
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.head_first import (
    LEAST_EPOCHS,
    default_minutes,
    head_arguments,
    mirroring_changes_labels,
    train_head,
)
from imgpipe.components.train.job_dir import CHECKPOINTS_FOLDER
from imgpipe.components.train.located_batches import short_reason
from imgpipe.components.train.loop import Callbacks, LoopResult, SavedTraining, Weights, run_loop
from imgpipe.components.train.model_race import find_or_run_race
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import (
    Classifier,
    build_classifier,
    rate_factors,
    set_batch_normalization_momentum,
)
from imgpipe.components.train.precision import resolve_precision
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.recipes import AUTO, FROZEN, HEAD_FIRST, ORIGINAL, UNSET, TrainingData
from imgpipe.components.train.reporter import reporter
from imgpipe.components.train.resolution import (
    EVALUATION_COST,
    has_measured_steps,
    resolve_arguments,
    steps_within,
)
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.training_inputs import TrainingInputs, image_trainable, training_inputs
from imgpipe.components.train.training_step import Trainable, build_training_step
from imgpipe.components.train.written_model import resolved_arguments, write_model

# Steps by which the speed of a machine is measured.
_MEASURED_STEPS = 5
# The settings that may change when an interrupted training resumes.
_FREE_TO_CHANGE = frozenset(
    {
        "early_stopping_patience",
        "eval_batch_size",
        "job_dir",
        "keep_checkpoints",
        "max_duration",
        # It decides which network is trained, which is compared.
        "max_latency_ms",
        "max_minutes",
        "max_steps",
        # Determined by the data, whose digest is compared.
        "multi_label",
        # It only stands for values of other arguments.
        "recipe",
        "train_steps_per_eval",
    }
)


@dataclass(frozen=True)
class _Job:
    """The inputs of a training."""

    arguments: TrainingArguments
    manifest: Manifest
    accelerators: Accelerators
    precision: str

    def build_classifier(self, *, weights: str, pretrained_checkpoint_path: str) -> Classifier:
        """Builds the network; to train it, call this in the strategy's scope."""
        return build_classifier(
            self.arguments.model_type,
            num_classes=self.manifest.num_classes,
            image_size=self.arguments.resolved_image_size(),
            weights=weights,
            seed=self.arguments.seed,
            freeze=self.arguments.freeze,
            precision=self.precision,
            pretrained_checkpoint_path=pretrained_checkpoint_path,
        )

    def build_optimizer(self, classifier: Classifier) -> keras.optimizers.Optimizer:
        """Builds the optimizer; call this in the strategy's scope."""
        factors = rate_factors(classifier, self.arguments.layer_decay)
        return build_optimizer(self.arguments, self.precision, factors)

    def on_one_device(self, classifier: Classifier) -> Classifier:
        """Returns the model with variables on one device, since one process cannot save those of several."""
        if not self.accelerators.uses_strategy:
            return classifier
        copy = self.build_classifier(weights="none", pretrained_checkpoint_path="")
        for variable, original in zip(copy.variables, classifier.variables, strict=True):
            variable.assign(self.accelerators.local_value(original))
        return copy

    def describe_devices(self) -> str:
        """Returns e.g. ``CPU``, ``4 x GPU`` or ``8 x GPU in 2 processes``."""
        count, workers = self.accelerators.replicas, self.accelerators.workers
        devices = f"{count} x {self.accelerators.kind}" if count > 1 else self.accelerators.kind
        return f"{devices} in {workers} processes" if workers > 1 else devices

    def identity(self, classifier: Classifier) -> dict[str, Any]:
        """Returns the values that must not change when an interrupted training resumes.

        They include the digest of a frozen backbone: its checkpoints contain only the last layer, and the
        model at ``pretrained_checkpoint_path`` may have been replaced since.
        """
        settings = resolved_arguments(self.arguments, self.manifest)
        identity = {name: value for name, value in settings.items() if name not in _FREE_TO_CHANGE}
        if self.arguments.freeze == "backbone":
            digest = hashlib.sha256()
            for variable in classifier.network.variables:
                digest.update(self.accelerators.local_value(variable).tobytes())
            identity["backbone_digest"] = digest.hexdigest()
        return {**identity, "data_digest": self.manifest.digest()}


def train(
    arguments: TrainingArguments,
    dataset_folder: Path,
    model_folder: Path,
    *,
    publish: Callable[[Path], object] | None = None,
    stop: Callable[[Sequence[Evaluation]], str] | None = None,
    features_folder: Path | None = None,
) -> LoopResult:
    """Trains and writes the model folder: SavedModel, labels, provenance, deployment configuration.

    With a ``job_dir``, it writes checkpoints and evaluations there, and resumes an interrupted training with
    the same arguments and data. If several processes train together, only the chief writes.

    Args:
        arguments: The settings.
        dataset_folder: The folder of the data set's ``manifest.json``.
        model_folder: The folder to write; must be empty or not exist.
        publish: Called with a folder with the best model so far: from time to time, as long as that takes at
            most a tenth of the training's time, and before an error is raised because the training diverged.
            The folder is removed afterwards. It is not called for the final model.
        stop: Called with all evaluations after each evaluation; a non-empty return value is the reason to end
            the training.
        features_folder: Where trainings on this machine share the features of frozen backbones, which are
            then computed only once; None if there are no other trainings.

    Raises:
        InvalidArgumentError: if the arguments do not match the data, the devices, the memory or the
            checkpoints in job_dir.
        InvalidDataError: if a split is empty, there is only one label, or an image cannot be decoded
            (the error names it).
        OutputError: if ``model_folder`` is not empty, or a checkpoint cannot be written.
        UnavailableError: if pretrained weights are not available.
        CheckFailedError: if the training diverges.
        InterruptedRunError: if the process is asked to terminate.
    """
    started = time.monotonic()
    check_empty(model_folder)
    manifest = read_manifest(dataset_folder)
    _check_data(arguments, manifest)
    given, arguments = arguments, resolve_arguments(arguments, manifest)
    if arguments.job_dir:
        parse_location(arguments.job_dir).check_writable()
    if arguments.deterministic:
        # Must precede any other use of TensorFlow.
        tf.config.experimental.enable_op_determinism()
    accelerators = find_accelerators()
    has_default_budget = arguments.recipe == HEAD_FIRST and not given.max_minutes and given.max_steps == UNSET
    if has_default_budget:
        given, arguments = (
            dataclasses.replace(values, max_minutes=default_minutes(accelerators.kind))
            for values in (given, arguments)
        )
    race = find_or_run_race(given, manifest, dataset_folder, workers=accelerators.workers)
    if race:
        given = dataclasses.replace(given, model_type=race.model_type)
        arguments = resolve_arguments(given, manifest)
    _check_devices(arguments, accelerators)
    precision = resolve_precision(
        arguments.mixed_precision, arguments.model_type, image_size=arguments.resolved_image_size()
    )
    checkpoint = _latest_checkpoint(arguments) if given.recipe != ORIGINAL else None
    decisions: list[str] = []
    if checkpoint is not None:
        decisions = list(checkpoint.state.get("decisions", ()))
        given = _as_before(given, arguments, checkpoint)
        if has_default_budget and given.recipe == FROZEN:
            given = dataclasses.replace(given, max_minutes=0.0)
        arguments = resolve_arguments(given, manifest)
    job = _Job(arguments, manifest, accelerators, precision)
    with accelerators.strategy.scope():
        classifier = job.build_classifier(
            weights=arguments.weights, pretrained_checkpoint_path=arguments.pretrained_checkpoint_path
        )
    saved = _find_saved_training(job, classifier)
    log_event(
        "model_built",
        f"train: {arguments.model_type} at {arguments.resolved_image_size()} pixels, "
        f"{sum(int(np.prod(variable.shape)) for variable in classifier.variables):,} parameters, "
        f"on {job.describe_devices()}",
        model_type=arguments.model_type,
    )

    def write(folder: Path, evaluations: Sequence[Evaluation], best: Evaluation) -> None:
        environment: dict[str, Any] = {"devices": job.describe_devices(), "precision": precision}
        if decisions:
            environment["decisions"] = decisions
        if race:
            environment["model_race"] = race.as_json()
        model = job.on_one_device(classifier)
        write_model(folder, model, arguments, manifest, evaluations, best, environment)

    publisher = Publisher(write, publish) if publish and accelerators.is_chief else None
    with (
        local_dataset(dataset_folder, TRAIN, VALIDATION) as folder,
        _explain_out_of_memory(arguments),
        _explain_lost_worker(accelerators),
    ):
        data = _LocalData(read_manifest(folder), folder, features_folder)
        end = started + 60 * arguments.max_minutes
        first_evaluation = None
        if arguments.recipe == HEAD_FIRST and checkpoint is None:
            start = _start_head_first(job, given, classifier, data, end, has_default_budget)
            arguments, classifier, first_evaluation = start.arguments, start.classifier, start.evaluation
            inputs, decisions = start.inputs, start.decisions
        else:
            inputs = data.inputs(job, classifier)
            if has_measured_steps(given):
                arguments = _with_measured_steps(job, given, inputs, data.manifest, end)
                set_batch_normalization_momentum(classifier, arguments.max_steps)
        if arguments.max_minutes:
            seconds_left = max(1, math.ceil(end - time.monotonic()))
            limits = filter(None, (arguments.max_duration, seconds_left))
            arguments = dataclasses.replace(arguments, max_duration=min(limits))
        job = dataclasses.replace(job, arguments=arguments)
        tracked = current_run() if accelerators.is_chief else None
        if tracked is not None:
            tracked.log_parameters(resolved_arguments(arguments, manifest), "train")
        with accelerators.strategy.scope():
            optimizer = job.build_optimizer(classifier)
        result = run_loop(
            inputs.trainable,
            optimizer,
            arguments,
            inputs.training_batches,
            inputs.evaluation_batches,
            accelerators=accelerators,
            callbacks=_callbacks(job, inputs.trainable, classifier, publisher, stop, tracked, decisions),
            resume_from=saved,
            first_evaluation=first_evaluation,
        )
    log_result(
        "train",
        f"best top-1 accuracy {result.best.top_1_accuracy:.4f}, at step {result.best.step:,} "
        f"of {result.evaluations[-1].step:,}",
        training_step=result.best.step,
        top_1_accuracy=result.best.top_1_accuracy,
    )
    if tracked is not None:
        tracked.flush(is_last=True)
    if accelerators.is_chief:
        write(model_folder, result.evaluations, result.best)
    return result


@dataclass(frozen=True)
class _LocalData:
    """The data set on this machine."""

    manifest: Manifest
    folder: Path
    features_folder: Path | None

    @property
    def size(self) -> TrainingData:
        """What a recipe's schedule depends on."""
        return TrainingData(self.manifest.splits[TRAIN].examples, self.manifest.num_classes)

    def inputs(self, job: _Job, classifier: Classifier) -> TrainingInputs:
        """Returns the loop's inputs."""
        return training_inputs(
            classifier, job.arguments, self.manifest, self.folder, job.accelerators, self.features_folder
        )


@dataclass(frozen=True)
class _Start:
    """How a training starts, with what it has decided and why.

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


def _start_head_first(
    job: _Job,
    given: TrainingArguments,
    classifier: Classifier,
    data: _LocalData,
    end: float,
    has_default_budget: bool,
) -> _Start:
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
    inputs = data.inputs(job, classifier)
    changed: dict[str, Any] = {}
    if has_measured_steps(given):
        origin = f"the default on a {job.accelerators.kind}; " if has_default_budget else ""
        log_event(
            "time_budget",
            f"train: {arguments.max_minutes:g} minutes ({origin}max_minutes changes it): measuring how many "
            "steps fit",
            minutes=arguments.max_minutes,
        )
        fit = _measure_fine_tuning(job, given, classifier, inputs, data, end)
        epochs = fit.steps * arguments.train_batch_size / data.size.images
        if fit.steps < arguments.max_steps and epochs < LEAST_EPOCHS:
            decision = (
                f"only the last layer is trained: a step of {fit.part} takes {fit.seconds_per_step:.2g} "
                f"seconds, so {epochs:.1f} epochs of it would fit into {arguments.max_minutes:g} minutes, "
                f"and fewer than {LEAST_EPOCHS:g} gain nothing"
            )
            return _start_frozen(job, given, classifier, data, end, has_default_budget, decision)
        changed["freeze"] = fit.classifier.freeze
        classifier, inputs = fit.classifier, dataclasses.replace(inputs, trainable=fit.trainable)
        decisions.append(
            f"the last layer is trained first, then {fit.part}: {fit.steps:,} steps of "
            f"{fit.seconds_per_step:.2g} seconds, {epochs:.1f} epochs, fit into {arguments.max_minutes:g} "
            f"minutes, {arguments.max_steps:,} steps are planned without a limit"
        )
        _log_decision(decisions[-1])
    evaluation = train_head(
        classifier,
        head_arguments(arguments, data.size),
        data.manifest,
        data.folder,
        job.accelerators,
        data.features_folder,
    )
    if given.augmentation == AUTO and mirroring_changes_labels(
        classifier,
        inputs.evaluation_batches,
        _validation_images(arguments, data.manifest),
        job.accelerators,
    ):
        changed["augmentation"] = MILD_CROP
        decisions.append("images are cropped but not mirrored: mirrored, they are classified less accurately")
        _log_decision(decisions[-1])
    if fit is not None:
        steps = _steps_until(end, job, data.manifest, fit.seconds_per_step)
        changed["max_steps"] = max(steps, given.warmup_steps + 1)
    if changed:
        arguments = resolve_arguments(dataclasses.replace(given, **changed), data.manifest)
    if "augmentation" in changed:
        inputs = data.inputs(dataclasses.replace(job, arguments=arguments), classifier)
    set_batch_normalization_momentum(classifier, arguments.max_steps)
    return _Start(arguments, classifier, inputs, evaluation, decisions)


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
    job: _Job,
    given: TrainingArguments,
    classifier: Classifier,
    inputs: TrainingInputs,
    data: _LocalData,
    end: float,
) -> _FineTuning:
    """Measures the whole network and, if not all planned steps of it fit into the time, its later stages.

    The first stages, on the largest feature maps, take up to half of the time and change least.
    """
    arguments = job.arguments
    images = data.size.images + _validation_images(arguments, data.manifest)
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
        steps = _steps_until(end - for_head, job, data.manifest, seconds_per_step)
        found = _FineTuning(frozen, trainable, part, seconds_per_step, steps)
        if steps >= arguments.max_steps:
            break
    return found


def _start_frozen(
    job: _Job,
    given: TrainingArguments,
    classifier: Classifier,
    data: _LocalData,
    end: float,
    has_default_budget: bool,
    decision: str,
) -> _Start:
    """Returns the start of the recipe frozen-backbone; the arguments are those of ``_start_head_first``."""
    _log_decision(decision)
    # A budget that the user has not set does not limit this.
    given = dataclasses.replace(
        given, recipe=FROZEN, max_minutes=0.0 if has_default_budget else given.max_minutes
    )
    job = dataclasses.replace(job, arguments=resolve_arguments(given, data.manifest))
    classifier = dataclasses.replace(classifier, freeze=job.arguments.freeze)
    inputs = data.inputs(job, classifier)
    arguments = job.arguments
    if has_measured_steps(given):
        arguments = _with_measured_steps(job, given, inputs, data.manifest, end)
    return _Start(arguments, classifier, inputs, None, [decision])


def _log_decision(sentence: str) -> None:
    log_event("decision", f"train: {sentence}")


def _as_before(
    given: TrainingArguments, arguments: TrainingArguments, checkpoint: Checkpoint
) -> TrainingArguments:
    """Returns the arguments with what was decided before an interruption.

    Args:
        given: The arguments, in which those that are left to the recipe are not resolved.
        arguments: The resolved arguments.
        checkpoint: That of the interrupted training.
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


def _validation_images(arguments: TrainingArguments, manifest: Manifest) -> int:
    return arguments.num_eval_images or manifest.splits[VALIDATION].examples


def _with_measured_steps(
    job: _Job, given: TrainingArguments, inputs: TrainingInputs, manifest: Manifest, end: float
) -> TrainingArguments:
    """Returns the arguments with as many steps as fit into the time budget."""
    seconds_per_step = _seconds_per_step(job, inputs)
    steps = _steps_until(end, job, manifest, seconds_per_step)
    log_event(
        "steps_measured",
        f"train: {seconds_per_step:.3g} seconds per step: {steps:,} steps fit into max_minutes="
        f"{job.arguments.max_minutes:g}, {job.arguments.max_steps:,} without a time limit",
        max_steps=steps,
        seconds_per_step=seconds_per_step,
    )
    steps = max(steps, given.warmup_steps + 1)
    return resolve_arguments(dataclasses.replace(given, max_steps=steps), manifest)


def _seconds_per_step(job: _Job, inputs: TrainingInputs) -> float:
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


def _steps_until(end: float, job: _Job, manifest: Manifest, seconds_per_step: float) -> int:
    """Returns how many steps, with their evaluations, fit into the time until ``end``."""
    accelerators, arguments = job.accelerators, job.arguments
    # The workers must agree.
    seconds = float(accelerators.sum_over_workers(np.array([end - time.monotonic()]))[0])
    return steps_within(
        seconds / accelerators.workers,
        arguments,
        seconds_per_step=seconds_per_step,
        validation_batches=math.ceil(_validation_images(arguments, manifest) / arguments.train_batch_size),
    )


def _find_saved_training(job: _Job, classifier: Classifier) -> SavedTraining | None:
    """Returns the state that this training resumes from; None to start from the beginning.

    Raises:
        InvalidArgumentError: if the checkpoints belong to another training.
    """
    checkpoints, checkpoint = _checkpoint_folder(job.arguments), _latest_checkpoint(job.arguments)
    if checkpoints is None or checkpoint is None:
        return None
    check_same_training(checkpoint, job.identity(classifier), checkpoints.location)
    best = checkpoints.best(checkpoint.state["best_step"]) if "best_step" in checkpoint.state else None
    before, now = checkpoint.state["max_steps"], job.arguments.max_steps
    changed = f"; max_steps was {before:,}, is {now:,}" if before != now else ""
    log_event(
        "resumed",
        f"train: resuming from the checkpoint of step {checkpoint.step:,} of {now:,}{changed}",
        training_step=checkpoint.step,
        severity="WARNING" if changed else "INFO",
    )
    return SavedTraining(checkpoint, from_arrays("model", best.arrays) if best else None)


def _callbacks(
    job: _Job,
    trainable: Trainable,
    classifier: Classifier,
    publisher: Publisher | None,
    stop: Callable[[Sequence[Evaluation]], str] | None,
    tracked: MlflowRun | None,
    decisions: Sequence[str],
) -> Callbacks:
    if not job.accelerators.is_chief:
        return Callbacks(stop=stop)
    folder = _checkpoint_folder(job.arguments)
    report = reporter(job.arguments.job_dir, tracked)
    if folder is None:
        return Callbacks(report=report, publisher=publisher, stop=stop)
    job_state = {
        "training": job.identity(classifier),
        "max_steps": job.arguments.max_steps,
        "decisions": list(decisions),
    }
    complete = len(trainable.variables) == len(classifier.variables)

    def save(checkpoint: Checkpoint) -> None:
        folder.write(Checkpoint(checkpoint.step, checkpoint.arrays, {**checkpoint.state, **job_state}))

    def save_best(step: int, weights: Weights) -> None:
        folder.write_best(step, to_arrays("model", trainable.variables, weights), {"complete": complete})

    return Callbacks(report=report, save=save, save_best=save_best, publisher=publisher, stop=stop)


def _checkpoint_folder(arguments: TrainingArguments) -> CheckpointFolder | None:
    if not arguments.job_dir:
        return None
    folder = parse_location(arguments.job_dir) / CHECKPOINTS_FOLDER
    return CheckpointFolder(folder, keep=arguments.keep_checkpoints)


def _latest_checkpoint(arguments: TrainingArguments) -> Checkpoint | None:
    folder = _checkpoint_folder(arguments)
    return folder.latest() if folder else None


def _check_data(arguments: TrainingArguments, manifest: Manifest) -> None:
    for name in (TRAIN, VALIDATION):
        if name not in manifest.splits or not manifest.splits[name].examples:
            raise InvalidDataError(
                f"the data set has no {name} images", remedy=f"add images to the {name} split"
            )
    if arguments.multi_label != manifest.multi_label:
        raise InvalidArgumentError(
            multi_label_problem(arguments.multi_label), remedy=multi_label_remedy(arguments.multi_label)
        )
    if manifest.num_classes < 2 and not manifest.multi_label:
        raise InvalidDataError(
            f"the data set has only one label ({', '.join(manifest.labels)}), so there is nothing to learn",
            remedy="add images with at least one other label",
        )
    if arguments.num_classes not in (0, manifest.num_classes):
        raise InvalidArgumentError(
            f"num_classes={arguments.num_classes}, but the data has {manifest.num_classes} labels: "
            f"{', '.join(manifest.labels[:10])}{', ...' if manifest.num_classes > 10 else ''}",
            remedy=f"set num_classes to {manifest.num_classes}, or to 0 to use the number of labels",
        )
    training, validation = (manifest.splits[name].examples for name in (TRAIN, VALIDATION))
    if arguments.train_batch_size > training:
        raise InvalidArgumentError(
            f"train_batch_size={arguments.train_batch_size} is more than the {training} training images",
            remedy=f"set train_batch_size to at most {training}",
        )
    if arguments.num_eval_images > validation:
        raise InvalidArgumentError(
            f"num_eval_images={arguments.num_eval_images} is more than the {validation} validation images",
            remedy=f"set num_eval_images to at most {validation}, or to 0 for all",
        )


def _check_devices(arguments: TrainingArguments, accelerators: Accelerators) -> None:
    if arguments.train_batch_size % accelerators.replicas:
        count = accelerators.replicas
        raise InvalidArgumentError(
            f"train_batch_size={arguments.train_batch_size} cannot be split across {count} devices",
            remedy=f"set train_batch_size, the batch size of all devices together, to a multiple of {count}",
        )


@contextmanager
def _explain_out_of_memory(arguments: TrainingArguments) -> Iterator[None]:
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        reason = short_reason(error)
        eval_batch_size = ", eval_batch_size" if arguments.eval_batch_size else ""
        raise InvalidArgumentError(
            f"not enough memory for train_batch_size={arguments.train_batch_size} and "
            f"image_size={arguments.resolved_image_size()}{': ' if reason else ''}{reason}",
            remedy=f"lower train_batch_size{eval_batch_size} or image_size, or set a smaller model_type",
        ) from None


@contextmanager
def _explain_lost_worker(accelerators: Accelerators) -> Iterator[None]:
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
        if accelerators.workers == 1:
            raise
        raise InterruptedRunError(
            f"one of the {accelerators.workers} workers no longer responds",
            remedy="start all workers again with the same job_dir to resume from the last evaluation",
        ) from None
