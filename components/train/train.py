"""Trains a classifier on a data set and writes the SavedModel of its best evaluation."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset
from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError, InvalidDataError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.shared_arguments import multi_label_problem, multi_label_remedy
from imgpipe.components.common.tf_import import tf
from imgpipe.components.storage.files import check_empty, joined
from imgpipe.components.storage.folders import check_folder_writable
from imgpipe.components.train.accelerators import Accelerators, find_accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.checkpoints import (
    Checkpoint,
    CheckpointFolder,
    check_same_training,
    named,
    values_of,
)
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.job_dir import CHECKPOINTS_FOLDER
from imgpipe.components.train.located_batches import short_reason
from imgpipe.components.train.loop import Hooks, LoopResult, Start, Weights, run_loop
from imgpipe.components.train.models import Classifier, build_classifier
from imgpipe.components.train.precision import resolve_precision
from imgpipe.components.train.publisher import Publisher
from imgpipe.components.train.reporter import reporter
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.training_inputs import training_inputs
from imgpipe.components.train.training_step import Trainable
from imgpipe.components.train.written_model import resolved_arguments, write_model

# Two trainings that differ in these alone are the same: an interrupted one may go on with others.
_FREE_TO_CHANGE = frozenset(
    {
        "early_stopping_patience",
        "eval_batch_size",
        "job_dir",
        "keep_checkpoints",
        "max_duration",
        "max_steps",
        # Agrees with the data, whose digest must be the same.
        "multi_label",
        "train_steps_per_eval",
    }
)


@dataclass(frozen=True)
class _Job:
    """What one training is of.

    Attributes:
        arguments: All settings.
        manifest: Of the data set.
        accelerators: What it runs on.
        precision: Of the arithmetic: float32, bfloat16 or float16.
    """

    arguments: TrainingArguments
    manifest: Manifest
    accelerators: Accelerators
    precision: str

    def build_classifier(self, *, weights: str, pretrained_checkpoint_path: str) -> Classifier:
        """Builds the network; in the strategy's scope, if it is to be trained there."""
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

    def to_be_written(self, classifier: Classifier) -> Classifier:
        """Returns the model on one device: what several devices hold, one of them alone cannot save."""
        if self.accelerators.replicas == 1:
            return classifier
        copy = self.build_classifier(weights="none", pretrained_checkpoint_path="")
        for variable, original in zip(copy.variables, classifier.variables, strict=True):
            variable.assign(self.accelerators.value_of(original))
        return copy

    def devices(self) -> str:
        """Returns the devices in words: CPU, 4 x GPU, 8 x GPU in 2 processes."""
        count, workers = self.accelerators.replicas, self.accelerators.workers
        several = f"{count} x {self.accelerators.kind}" if count > 1 else self.accelerators.kind
        return f"{several} in {workers} processes" if workers > 1 else several

    def identity(self, classifier: Classifier) -> dict[str, Any]:
        """Returns what an interrupted training must have in common with the one that goes on.

        The backbone belongs to it where it is not trained: checkpoints may hold the last layer alone, and
        what lies at ``pretrained_checkpoint_path`` may be another model by now.
        """
        settings = resolved_arguments(self.arguments, self.manifest)
        kept = {name: value for name, value in settings.items() if name not in _FREE_TO_CHANGE}
        if self.arguments.freeze == "backbone":
            digest = hashlib.sha256()
            for variable in classifier.network.variables:
                digest.update(self.accelerators.value_of(variable).tobytes())
            kept["backbone_digest"] = digest.hexdigest()
        return {**kept, "data_digest": self.manifest.digest()}


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

    With a ``job_dir`` it writes checkpoints, goes on from those of an interrupted training of the same
    arguments and data, and keeps the evaluations there. Where several processes train together, the
    chief alone writes.

    Args:
        arguments: All settings.
        dataset_folder: Where the data set's ``manifest.json`` lies.
        model_folder: To be written; must not exist or be empty.
        publish: Gets a folder with the best model so far: now and then on the way, as long as that takes no
            more than a tenth of the training's time, and before an error is raised because the training
            diverged. The folder is removed afterwards. The final model is not published.
        stop: Gets all evaluations after each of them; a text is the reason to end the training there.
        features_folder: Where trainings on this machine share the features of frozen backbones, so that they
            are computed once; None if there are no others.

    Raises:
        InvalidArgumentError: if the arguments do not fit the data, the devices, the memory or the
            checkpoints in job_dir.
        InvalidDataError: if a split is empty, there is only one label, or an image cannot be decoded
            (which one is said).
        OutputError: if there is something in ``model_folder``, or a checkpoint cannot be written.
        UnavailableError: if pretrained weights cannot be had.
        CheckFailedError: if the training diverges.
        InterruptedRunError: if the process is told to stop.
    """
    check_empty(model_folder)
    manifest = read_manifest(dataset_folder)
    _check_fit(arguments, manifest)
    if arguments.job_dir:
        check_folder_writable(arguments.job_dir)
    if arguments.deterministic:
        # Before any other use of TensorFlow.
        tf.config.experimental.enable_op_determinism()
    accelerators = find_accelerators()
    _check_devices(arguments, accelerators)
    precision = resolve_precision(arguments.mixed_precision, arguments.model_type)
    job = _Job(arguments, manifest, accelerators, precision)
    with accelerators.strategy.scope():
        classifier = job.build_classifier(
            weights=arguments.weights, pretrained_checkpoint_path=arguments.pretrained_checkpoint_path
        )
    start = _start(job, classifier)
    with accelerators.strategy.scope():
        optimizer = build_optimizer(arguments, precision)
    log_event(
        "model_built",
        f"train: {arguments.model_type} at {arguments.resolved_image_size()} pixels, "
        f"{sum(int(np.prod(variable.shape)) for variable in classifier.variables):,} parameters, "
        f"on {job.devices()}",
        model_type=arguments.model_type,
    )

    def write(folder: Path, evaluations: Sequence[Evaluation], best: Evaluation) -> None:
        circumstances = {"devices": job.devices(), "precision": precision}
        written = job.to_be_written(classifier)
        write_model(folder, written, arguments, manifest, evaluations, best, circumstances)

    publisher = Publisher(write, publish) if publish and accelerators.is_chief else None
    with (
        local_dataset(dataset_folder) as folder,
        _lack_of_memory_explained(arguments),
        _lost_workers_explained(accelerators),
    ):
        inputs = training_inputs(
            classifier, arguments, read_manifest(folder), folder, accelerators, features_folder
        )
        result = run_loop(
            inputs.trainable,
            optimizer,
            arguments,
            inputs.training_batches,
            inputs.evaluation_batches,
            accelerators=accelerators,
            hooks=_hooks(job, inputs.trainable, classifier, publisher, stop),
            start=start,
        )
    log_result(
        "train",
        f"best top-1 accuracy {result.best.top_1_accuracy:.4f}, at step {result.best.step:,} "
        f"of {result.evaluations[-1].step:,}",
        training_step=result.best.step,
        top_1_accuracy=result.best.top_1_accuracy,
    )
    if accelerators.is_chief:
        write(model_folder, result.evaluations, result.best)
    return result


def _start(job: _Job, classifier: Classifier) -> Start | None:
    """Returns where an interrupted training of this job goes on; None if there is none.

    Raises:
        InvalidArgumentError: if there are checkpoints of another training.
    """
    checkpoints = _checkpoints(job.arguments)
    checkpoint = checkpoints.latest() if checkpoints else None
    if checkpoints is None or checkpoint is None:
        return None
    check_same_training(checkpoint, job.identity(classifier), checkpoints.location)
    best = checkpoints.best(checkpoint.state["best_step"]) if "best_step" in checkpoint.state else None
    before, now = checkpoint.state["max_steps"], job.arguments.max_steps
    changed = f"; max_steps was {before:,}, is {now:,}" if before != now else ""
    log_event(
        "resumed",
        f"train: goes on from the checkpoint of step {checkpoint.step:,} of {now:,}{changed}",
        training_step=checkpoint.step,
        severity="WARNING" if changed else "INFO",
    )
    return Start(checkpoint, values_of("model", best.arrays) if best else None)


def _hooks(
    job: _Job,
    trainable: Trainable,
    classifier: Classifier,
    publisher: Publisher | None,
    stop: Callable[[Sequence[Evaluation]], str] | None,
) -> Hooks:
    """Returns what the loop tells whom; of several processes the chief alone reports and writes."""
    if not job.accelerators.is_chief:
        return Hooks(stop=stop)
    checkpoints = _checkpoints(job.arguments)
    report = reporter(job.arguments.job_dir)
    if checkpoints is None:
        return Hooks(report=report, publisher=publisher, stop=stop)
    folder = checkpoints
    identity = job.identity(classifier)
    complete = len(trainable.kept) == len(classifier.variables)

    def save(checkpoint: Checkpoint) -> None:
        added: Mapping[str, Any] = {"training": identity, "max_steps": job.arguments.max_steps}
        folder.write(Checkpoint(checkpoint.step, checkpoint.arrays, {**checkpoint.state, **added}))

    def save_best(step: int, weights: Weights) -> None:
        folder.write_best(step, named("model", trainable.kept, weights), {"complete": complete})

    return Hooks(report=report, save=save, save_best=save_best, publisher=publisher, stop=stop)


def _checkpoints(arguments: TrainingArguments) -> CheckpointFolder | None:
    if not arguments.job_dir:
        return None
    location = joined(arguments.job_dir, CHECKPOINTS_FOLDER)
    return CheckpointFolder(location, keep=arguments.keep_checkpoints)


def _check_fit(arguments: TrainingArguments, manifest: Manifest) -> None:
    for name in (TRAIN, VALIDATION):
        if name not in manifest.splits or not manifest.splits[name].examples:
            raise InvalidDataError(
                f"the data set has no {name} images", remedy=f"give images for the {name} split"
            )
    if arguments.multi_label != manifest.multi_label:
        raise InvalidArgumentError(
            multi_label_problem(arguments.multi_label), remedy=multi_label_remedy(arguments.multi_label)
        )
    if manifest.num_classes < 2 and not manifest.multi_label:
        raise InvalidDataError(
            f"the data set has only one label ({', '.join(manifest.labels)}): every model answers it",
            remedy="give images of at least two labels",
        )
    if arguments.num_classes not in (0, manifest.num_classes):
        raise InvalidArgumentError(
            f"num_classes={arguments.num_classes}, but the data has {manifest.num_classes} labels: "
            f"{', '.join(manifest.labels[:10])}{', ...' if manifest.num_classes > 10 else ''}",
            remedy=f"give num_classes={manifest.num_classes}, or 0 to take it from the data",
        )
    training, validation = (manifest.splits[name].examples for name in (TRAIN, VALIDATION))
    if arguments.train_batch_size > training:
        raise InvalidArgumentError(
            f"train_batch_size={arguments.train_batch_size} is more than the {training} training images",
            remedy=f"give at most {training}",
        )
    if arguments.num_eval_images > validation:
        raise InvalidArgumentError(
            f"num_eval_images={arguments.num_eval_images} is more than the {validation} validation images",
            remedy=f"give at most {validation}, or 0 for all",
        )


def _check_devices(arguments: TrainingArguments, accelerators: Accelerators) -> None:
    if arguments.train_batch_size % accelerators.replicas:
        count = accelerators.replicas
        raise InvalidArgumentError(
            f"train_batch_size={arguments.train_batch_size} cannot be shared out among {count} devices",
            remedy=f"give a multiple of {count}: it is the batch of all devices together",
        )


@contextmanager
def _lack_of_memory_explained(arguments: TrainingArguments) -> Iterator[None]:
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        reason = short_reason(error)
        and_evaluation = ", eval_batch_size" if arguments.eval_batch_size else ""
        raise InvalidArgumentError(
            f"there is not enough memory for train_batch_size={arguments.train_batch_size} and "
            f"image_size={arguments.resolved_image_size()}{': ' if reason else ''}{reason}",
            remedy=f"lower train_batch_size{and_evaluation} or image_size, or choose a smaller model_type",
        ) from None


@contextmanager
def _lost_workers_explained(accelerators: Accelerators) -> Iterator[None]:
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
        if accelerators.workers == 1:
            raise
        raise InterruptedRunError(
            f"one of the {accelerators.workers} workers does not answer any more",
            remedy="start all workers again: with the same job_dir they go on from the last evaluation",
        ) from None
