"""The recipe head-then-fine-tune: trains the head on frozen features, and decides how the network is trained.

From a random head, the first steps distort the features of the pretrained network (Kumar et al., "Fine-Tuning
can Distort Pretrained Features", 2022). The trained head is the initial one of the fine-tuning, and its
evaluation that of step 0: if no later one is better, the model is this head on the unchanged network.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from imgpipe.components.common.errors import InterruptedRunError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.loop import run_loop
from imgpipe.components.train.models import Classifier
from imgpipe.components.train.recipes import FROZEN, UNSET_VALUES, TrainingData
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.training_inputs import LocalData, training_inputs

# Fewer epochs of fine-tuning gain less than their noise.
MIN_EPOCHS = 2.0
_MINUTES_ON_CPU, _MINUTES_ELSEWHERE = 8.0, 60.0
_IMAGES_MIRRORED = 512
# A loss of accuracy by mirroring that matters, and how many standard errors it must be.
_LOSS_BY_MIRRORING, _STANDARD_ERRORS = 0.02, 2.0


def default_minutes(device_kind: str) -> float:
    """Returns the time budget of a training run without ``max_minutes``, on a kind of device."""
    return _MINUTES_ON_CPU if device_kind == "CPU" else _MINUTES_ELSEWHERE


def head_arguments(arguments: TrainingArguments, data: TrainingData) -> TrainingArguments:
    """Returns the arguments of the head's training, those of frozen-backbone, for the same network and data.

    Args:
        arguments: Resolved arguments.
        data: The data set.
    """
    unset = {name: UNSET_VALUES[name] for name in UNSET_VALUES if name not in ("model_type", "image_size")}
    changed = {
        "recipe": FROZEN,
        "freeze": "backbone",
        "augmentation": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
        "learning_rate_decay_type": "cosine",
        "decay_steps": 0,
        "stepwise_learning_rate_steps": "",
        "stepwise_learning_rate_levels": "",
        "optimizer_arguments": "",
        "train_steps_per_eval": 0,
        "max_duration": 0,
        "job_dir": "",
    }
    return dataclasses.replace(arguments, **{**unset, **changed}).resolved(data)


def train_head(
    classifier: Classifier,
    arguments: TrainingArguments,
    data: LocalData,
    accelerators: Accelerators,
) -> Evaluation:
    """Trains the head on the features of the network as it is, and returns its evaluation as step 0.

    Args:
        classifier: The head's variables get the weights of the best evaluation.
        arguments: Those of the head, from ``head_arguments``.
        data: The data set.
        accelerators: The devices.

    Raises:
        InterruptedRunError: if the process is asked to terminate.
    """
    frozen = dataclasses.replace(classifier, freeze="backbone")
    inputs = training_inputs(frozen, arguments, data, accelerators)
    with accelerators.strategy.scope():
        optimizer = build_optimizer(arguments)
    try:
        result = run_loop(inputs, optimizer, arguments, accelerators)
    except InterruptedRunError:
        raise InterruptedRunError(
            "train was interrupted while it trained the last layer", remedy="start it again"
        ) from None
    log_event(
        "head_trained",
        f"train: the last layer alone has top-1 accuracy {result.best.top_1_accuracy:.4f} on the validation "
        "images",
        top_1_accuracy=result.best.top_1_accuracy,
    )
    return dataclasses.replace(result.best, step=0)


def mirroring_changes_labels(
    classifier: Classifier, batches: Iterable[tuple[Any, Any]], images: int, accelerators: Accelerators
) -> bool:
    """Returns whether mirrored images have other labels, as far as the trained head can see.

    It compares the accuracy on validation images and on the same images mirrored: a mirrored flower is a
    flower, but a mirrored b is a d.

    Args:
        classifier: With a trained head.
        batches: This worker's validation images, uint8, with classes or targets.
        images: Their number over all workers.
        accelerators: The devices.
    """

    @tf.function(reduce_retracing=True)
    def predict(batch: Any) -> Any:
        mirrored = tf.reverse(batch, [2])
        return tuple(tf.argmax(classifier.logits(x, training=False), axis=1) for x in (batch, mirrored))

    lost = gained = count = 0
    # All classes: the images may be sorted by class.
    stride = math.ceil(images / _IMAGES_MIRRORED)
    for number, (batch, truth) in enumerate(batches):
        if number % stride == 0:
            targets = np.asarray(truth)
            plain, mirrored = (_is_correct(found.numpy(), targets) for found in predict(batch))
            lost += int((plain & ~mirrored).sum())
            gained += int((mirrored & ~plain).sum())
            count += len(targets)
    # The workers must agree.
    lost, gained, count = accelerators.sum_over_workers(np.array([lost, gained, count], np.float64))
    difference = lost - gained
    return bool(
        difference > _LOSS_BY_MIRRORING * count and difference > _STANDARD_ERRORS * math.sqrt(lost + gained)
    )


def _is_correct(predicted: Any, targets: Any) -> Any:
    if targets.ndim == 1:
        return predicted == targets
    return targets[np.arange(len(targets)), predicted] > 0
