"""Gives a training run the values of its recipe: the only place where `auto` and -1 are replaced."""

import dataclasses
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from imgpipe.components.common.dataset import TRAIN, Manifest
from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_folder_at
from imgpipe.components.common.plural import plural
from imgpipe.components.common.provenance import PROVENANCE_NAME
from imgpipe.components.storage import LocalLocation, Location, parse_location
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.recipes import AUTO, ORIGINAL, UNSET, TrainingData

# The rest of a time budget is for building the network and writing the model.
_USED_FRACTION = 0.9
# Of a step, since an evaluation needs no gradients.
EVALUATION_COST = 1 / 3


def resolve_arguments(arguments: TrainingArguments, manifest: Manifest) -> TrainingArguments:
    """Returns the arguments with the recipe's values for a data set, and logs them.

    Training that starts from an earlier model of imgpipe trains the same network, unless ``model_type`` is
    given.

    Args:
        arguments: Arguments that are already resolved stay the same.
        manifest: The data set.

    Raises:
        InvalidArgumentError: if explicit values do not go with the recipe's.
    """
    if arguments.recipe == ORIGINAL:
        return arguments
    if arguments.model_type == AUTO and arguments.pretrained_checkpoint_path:
        network = earlier_network(parse_location(arguments.pretrained_checkpoint_path))
        if network.get("model_type") in MODEL_TYPES:
            size = arguments.image_size or int(network.get("image_size", 0))
            arguments = dataclasses.replace(arguments, model_type=network["model_type"], image_size=size)
    data = TrainingData(manifest.splits[TRAIN].examples, manifest.num_classes)
    resolved = arguments.resolved(data)
    if resolved != arguments:
        log_event(
            "recipe",
            f"train: recipe {resolved.recipe}: {resolved.model_type}, "
            f"{plural(resolved.max_steps, 'step')} of {plural(resolved.train_batch_size, 'image')}, for "
            f"{plural(data.images, 'training image')} of {plural(data.classes, 'label')}",
            recipe=resolved.recipe,
            max_steps=resolved.max_steps,
        )
    return resolved


def has_measured_steps(arguments: TrainingArguments) -> bool:
    """Returns whether the number of steps depends on the speed of the machine."""
    return bool(arguments.max_minutes) and arguments.max_steps == UNSET


def steps_within(
    seconds: float, arguments: TrainingArguments, *, seconds_per_step: float, validation_batches: int
) -> int:
    """Returns how many steps, with their evaluations, fit into a time; at most ``max_steps``, at least 1.

    Args:
        seconds: The time.
        arguments: Resolved arguments.
        seconds_per_step: The measured duration of a training step.
        validation_batches: Batches in an evaluation, each of the size of a training batch.
    """
    evaluation = validation_batches * seconds_per_step * EVALUATION_COST

    def fits(steps: int) -> bool:
        shorter = dataclasses.replace(arguments, max_steps=steps, warmup_steps=0, decay_steps=0)
        evaluations = math.ceil(steps / shorter.resolved_steps_per_eval())
        return steps * seconds_per_step + evaluations * evaluation <= _USED_FRACTION * seconds

    low, high = 1, arguments.max_steps
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def earlier_network(location: Location) -> Mapping[str, Any]:
    """Returns the provenance of a model of imgpipe; empty if the files at a location do not state it.

    Args:
        location: A model, or a folder with its versions, of which a bucket has version 1.
    """
    if isinstance(location, LocalLocation):
        with suppress(MissingInputError):
            location = LocalLocation(str(model_folder_at(location.path)))
    for folder in (location,) if location.is_local else (location, location / "1"):
        try:
            provenance = json.loads((folder / PROVENANCE_NAME).read())
        except (OSError, MissingInputError, ValueError):
            continue
        if isinstance(provenance, dict):
            return provenance
    return {}
