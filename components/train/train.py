"""Trains a classifier on a data set and writes the SavedModel of its best evaluation."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError, InvalidDataError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.mlflow import MlflowRun, current_run
from imgpipe.components.common.plural import plural
from imgpipe.components.common.shared_arguments import multi_label_problem, multi_label_remedy
from imgpipe.components.common.tf_import import tf
from imgpipe.components.storage import check_empty, parse_location
from imgpipe.components.train.accelerators import Accelerators, find_accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    check_same_training,
    from_arrays,
    to_arrays,
)
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.head_first import default_minutes
from imgpipe.components.train.job import Job
from imgpipe.components.train.job_dir import CHECKPOINTS_FOLDER
from imgpipe.components.train.located_batches import short_reason
from imgpipe.components.train.loop import Callbacks, LoopResult, SavedTraining, Weights, run_loop
from imgpipe.components.train.model_race import find_or_run_race
from imgpipe.components.train.models import Classifier, set_batch_normalization_momentum
from imgpipe.components.train.precision import resolve_precision
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.recipes import FROZEN, HEAD_FIRST, ORIGINAL, UNSET
from imgpipe.components.train.reporter import reporter
from imgpipe.components.train.resolution import has_measured_steps, resolve_arguments
from imgpipe.components.train.start import as_before, start_head_first, with_measured_steps
from imgpipe.components.train.training_inputs import LocalData, training_inputs
from imgpipe.components.train.training_step import Trainable
from imgpipe.components.train.weight_files import networks_to_compare
from imgpipe.components.train.written_model import resolved_arguments, write_model


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

    With a ``job_dir``, it writes checkpoints and evaluations there, and resumes an interrupted run with the
    same arguments and data. If several processes train together, only the chief writes.

    Args:
        arguments: The settings.
        dataset_folder: The folder of the data set's ``manifest.json``.
        model_folder: The folder to write; must be empty or not exist.
        publish: Called with a folder with the best model so far: from time to time, as long as that takes at
            most a tenth of the training's time, and before an error is raised because the training diverged.
            The folder is removed afterwards. It is not called for the final model.
        stop: Called with all evaluations after each evaluation; a non-empty return value is the reason to end
            the training.
        features_folder: Where training runs on this machine share the features of frozen backbones, which are
            then computed only once; None if there are no other training runs.

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
    resolved = resolve_arguments(arguments, manifest)
    checkpoints = None
    if arguments.job_dir:
        job_dir = parse_location(arguments.job_dir)
        job_dir.check_writable()
        checkpoints = CheckpointFolder(job_dir / CHECKPOINTS_FOLDER, arguments.keep_checkpoints)
    if arguments.deterministic:
        # Must precede any other use of TensorFlow.
        tf.config.experimental.enable_op_determinism()
    # The comparison of networks and the training use the same copies of remote shards.
    splits = (TRAIN, VALIDATION) if networks_to_compare(arguments) else ()
    with local_dataset(dataset_folder, *splits) as folder:
        return _train(
            arguments,
            resolved,
            manifest,
            folder,
            model_folder,
            checkpoints,
            started,
            publish,
            stop,
            features_folder,
        )


def _train(
    given: TrainingArguments,
    arguments: TrainingArguments,
    manifest: Manifest,
    dataset_folder: Path,
    model_folder: Path,
    checkpoints: CheckpointFolder | None,
    started: float,
    publish: Callable[[Path], object] | None,
    stop: Callable[[Sequence[Evaluation]], str] | None,
    features_folder: Path | None,
) -> LoopResult:
    accelerators = find_accelerators()
    has_default_budget = arguments.recipe == HEAD_FIRST and not given.max_minutes and given.max_steps == UNSET
    if has_default_budget:
        given, arguments = (
            dataclasses.replace(values, max_minutes=default_minutes(accelerators.kind))
            for values in (given, arguments)
        )
    race = find_or_run_race(given, dataset_folder, workers=accelerators.workers)
    if race:
        given = dataclasses.replace(given, model_type=race.model_type)
        arguments = resolve_arguments(given, manifest)
    _check_devices(arguments, accelerators)
    precision = resolve_precision(
        arguments.mixed_precision, arguments.model_type, image_size=arguments.resolved_image_size()
    )
    checkpoint = checkpoints.latest() if checkpoints else None
    decisions: list[str] = []
    if checkpoint is not None and given.recipe != ORIGINAL:
        decisions = list(checkpoint.state["decisions"])
        given = as_before(given, arguments, checkpoint)
        if has_default_budget and given.recipe == FROZEN:
            given = dataclasses.replace(given, max_minutes=0.0)
        arguments = resolve_arguments(given, manifest)
    job = Job(arguments, manifest, accelerators, precision)
    with accelerators.strategy.scope():
        classifier = job.build_classifier(
            weights=arguments.weights, pretrained_checkpoint_path=arguments.pretrained_checkpoint_path
        )
    saved = _saved_training(job, classifier, checkpoints, checkpoint) if checkpoints and checkpoint else None
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
            environment["model_race"] = dataclasses.asdict(race)
        model = job.on_one_device(classifier)
        write_model(folder, model, arguments, manifest, evaluations, best, environment)

    publisher = Publisher(write, publish) if publish and accelerators.is_chief else None
    with (
        local_dataset(dataset_folder, TRAIN, VALIDATION) as folder,
        _explain_out_of_memory(arguments),
        _explain_lost_worker(accelerators),
    ):
        data = LocalData(read_manifest(folder), folder, features_folder)
        end = started + 60 * arguments.max_minutes
        first_evaluation = None
        if arguments.recipe == HEAD_FIRST and checkpoint is None:
            start = start_head_first(job, given, classifier, data, end, has_default_budget)
            arguments, classifier, first_evaluation = start.arguments, start.classifier, start.evaluation
            inputs, decisions = start.inputs, start.decisions
        else:
            inputs = training_inputs(classifier, arguments, data, accelerators)
            if has_measured_steps(given):
                arguments = with_measured_steps(job, given, inputs, data, end)
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
            inputs,
            optimizer,
            arguments,
            accelerators,
            callbacks=_callbacks(
                job, inputs.trainable, classifier, checkpoints, publisher, stop, tracked, decisions
            ),
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


def _saved_training(
    job: Job, classifier: Classifier, checkpoints: CheckpointFolder, checkpoint: Checkpoint
) -> SavedTraining:
    """Returns the state that this training resumes from.

    Raises:
        InvalidArgumentError: if the checkpoints belong to another training run.
    """
    check_same_training(checkpoint, job.identity(classifier), str(checkpoints.folder))
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
    job: Job,
    trainable: Trainable,
    classifier: Classifier,
    checkpoints: CheckpointFolder | None,
    publisher: Publisher | None,
    stop: Callable[[Sequence[Evaluation]], str] | None,
    tracked: MlflowRun | None,
    decisions: Sequence[str],
) -> Callbacks:
    if not job.accelerators.is_chief:
        return Callbacks(stop=stop)
    report = reporter(job.arguments.job_dir, tracked)
    if checkpoints is None:
        return Callbacks(report=report, publisher=publisher, stop=stop)
    job_state = {
        "training": job.identity(classifier),
        "max_steps": job.arguments.max_steps,
        "decisions": list(decisions),
    }
    complete = len(trainable.variables) == len(classifier.variables)

    def save(checkpoint: Checkpoint) -> None:
        checkpoints.write(Checkpoint(checkpoint.step, checkpoint.arrays, {**checkpoint.state, **job_state}))

    def save_best(step: int, weights: Weights) -> None:
        checkpoints.write_best(step, to_arrays("model", trainable.variables, weights), {"complete": complete})

    return Callbacks(report=report, save=save, save_best=save_best, publisher=publisher, stop=stop)


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
            f"train_batch_size={arguments.train_batch_size} is more than "
            f"{plural(training, 'training image')}",
            remedy=f"set train_batch_size to at most {training}",
        )
    if arguments.num_eval_images > validation:
        raise InvalidArgumentError(
            f"num_eval_images={arguments.num_eval_images} is more than "
            f"{plural(validation, 'validation image')}",
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
