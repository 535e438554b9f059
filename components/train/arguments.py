"""The arguments of training, under the names of Google's built-in algorithm.

A recipe decides the arguments that are left to it: `auto`, or -1. The other defaults are those of the
original algorithm where they are known; otherwise a comment at the field gives the reason for ours.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, Kind, argument, check_fields, same_argument
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.provenance import SERVING_FORMATS, SERVING_FORMATS_WITH_WEBP
from imgpipe.components.images.resize_modes import RESIZE_MODES, STRETCH
from imgpipe.components.train.model_types import MODEL_TYPES, SMALLEST_IMAGE_SIZE
from imgpipe.components.train.optimizer_settings import OPTIMIZER_ARGUMENTS, optimizer_settings
from imgpipe.components.train.recipes import (
    AUTO,
    ORIGINAL,
    RECIPES,
    UNSET,
    TrainingData,
    recipe_values,
)

Number = TypeVar("Number", int, float)

# The learning_rate_decay_type that each of these arguments belongs to.
_DECAY_ARGUMENTS = {
    "stepwise_learning_rate_steps": "stepwise",
    "stepwise_learning_rate_levels": "stepwise",
    "decay_steps": "cosine",
}
_model_argument = partial(argument, group=Group.MODEL)
_augmentation_argument = partial(argument, group=Group.AUGMENTATION)
_training_argument = partial(argument, group=Group.TRAINING)
_optimizer_argument = partial(argument, group=Group.OPTIMIZER)


@dataclass(frozen=True)
class TrainingArguments:
    """The settings of a training run, validated on construction.

    With the recipe ``original``, all values are known then. With another one, ``resolved`` returns the
    settings for a data set; until then, the arguments that are left to the recipe are ``auto`` or -1.

    Raises:
        InvalidArgumentError: on construction, naming each invalid argument.
    """

    recipe: str = argument(
        ORIGINAL,
        "Settings to start from; every argument that you set overrides them. auto = head-then-fine-tune; or "
        "frozen-backbone in a search or with freeze=backbone, fine-tune with another value of `freeze`, "
        "from-scratch without ImageNet weights. "
        + " ".join(f"{name}: {recipe.description}." for name, recipe in RECIPES.items()),
        group=Group.BASICS,
        choices=(AUTO, *RECIPES),
    )
    max_minutes: float = argument(
        0.0,
        "Time budget of the training in minutes: the number of steps is such that the training, including "
        "its evaluations, takes at most about this long on its machine. It never takes more steps than "
        "without a budget; if max_steps is set, the training only ends then. In a search on one machine, "
        "it is the budget of all trials together. 0 = no limit; with recipe=head-then-fine-tune and without "
        "max_steps, 8 minutes on a CPU and 60 on a GPU or TPU.",
        group=Group.BASICS,
        minimum=0,
    )
    model_type: str = argument(
        AUTO,
        "The network. mobilenet-v3-small is the smallest and fastest, then mobilenet-v3-large, mobilenet-v2, "
        "resnet-18 and efficientnet-b0; within a family, a larger number means more accurate and slower. "
        "convnext-tiny and convnext-small are accurate and slow. resnet-18, resnet-34 and resnet-200 have no "
        "ImageNet weights. auto = that of pretrained_checkpoint_path; or, if the recipe starts from ImageNet "
        "weights and those of several networks are on the machine, the most accurate of them on a sample of "
        "the images (see max_latency_ms); else as the recipe says.",
        group=Group.BASICS,
        choices=(AUTO, *MODEL_TYPES),
    )
    max_latency_ms: float = shared_arguments.MAX_LATENCY_MS
    max_steps: int = argument(
        UNSET,
        "Total number of training steps (batches). -1 = as the recipe says for this number of images and "
        "labels.",
        group=Group.BASICS,
        minimum=1,
        unset=UNSET,
    )
    train_batch_size: int = shared_arguments.TRAIN_BATCH_SIZE
    num_classes: int = shared_arguments.NUM_CLASSES
    multi_label: bool = shared_arguments.MULTI_LABEL
    num_eval_images: int = shared_arguments.NUM_EVAL_IMAGES
    image_size: int = shared_arguments.IMAGE_SIZE
    resize: str = _model_argument(
        STRETCH,
        "How an image becomes a square, in training and in the served model: stretch (the whole image, "
        "stretched), crop (the largest square in its middle; training images only with augmentation=none) "
        "or letterbox (the whole image with its shape, between gray bars).",
        choices=RESIZE_MODES,
    )
    weights: str = _model_argument(
        AUTO,
        "Initial weights: imagenet (pretrained on ImageNet; needs far fewer images of your own), none "
        "(random; all layers are trained) or auto (as the recipe says).",
        choices=(AUTO, "imagenet", "none"),
    )
    pretrained_checkpoint_path: str = _model_argument(
        "",
        "Initial weights from a file or folder, local, gs:// or s3://: a SavedModel folder of imgpipe, a "
        "folder of numbered versions (the highest is used), a checkpoints folder, or a Keras file "
        "(.weights.h5, .keras). If the number of classes differs, the last layer starts from random weights. "
        "Empty = those that `weights` names.",
        kind=Kind.INPUT_MODEL,
    )
    freeze: str = _model_argument(
        AUTO,
        "What is not trained: auto (as the recipe says), none (the whole network is trained), backbone "
        "(only the last layer is trained; many times faster, and safer with few images), or all layers up to "
        "and including a part of the network: stem, stage1, stage2 and so on (ResNets and ConvNeXts have 4 "
        "stages, others 5 to 7). Requires pretrained weights.",
    )
    # The original's default is not known. A flipped or cropped digit is a different digit, so augmentation is
    # opt-in.
    augmentation: str = _augmentation_argument(
        AUTO,
        "Random changes of the training images: none, crop-flip (a random crop of at least 8 percent of "
        "the image, flipped half of the time; for long training runs with photos), mild-crop-flip (at least "
        "35 percent), mild-crop (without flipping), randaugment (crop-flip, then two random changes of color "
        "or geometry) or auto (as the recipe says).",
        choices=(AUTO, "none", "crop-flip", "mild-crop-flip", "mild-crop", "randaugment"),
    )
    mixup: float = _augmentation_argument(
        0.0,
        "Blends pairs of training images and their labels; the ratio is drawn from Beta(mixup, mixup). 0 ="
        " off; usual values are 0.1 to 0.4.",
        minimum=0,
    )
    cutmix: float = _augmentation_argument(
        0.0,
        "Pastes a rectangle of one training image into another and blends their labels by area; the area "
        "is drawn from Beta(cutmix, cutmix). 0 = off; the usual value is 1. If `mixup` is set too, each "
        "batch gets one of the two.",
        minimum=0,
    )
    class_weights: str = _training_argument(
        "none",
        "Weight of an image in the training loss: none (all equal), balanced (inverse to the number of "
        "training images of its class) or sqrt (inverse to the square root of that number). With "
        "multi_label, balanced multiplies the loss of a label that an image has by the number of images "
        "without the label, divided by the number with it; sqrt by the square root of that.",
        choices=("none", "balanced", "sqrt"),
    )
    label_set_coverage: float = _training_argument(
        0.9,
        "Probability that the set of labels that the signature label_sets returns contains an image's "
        "true label; with multi_label, each of its labels. The threshold is from the validation images.",
        above=0,
        below=1,
    )
    initial_learning_rate: float = _optimizer_argument(
        float(UNSET),
        "Learning rate after warm-up, where the decay begins. -1 = as the recipe says.",
        above=0,
        unset=UNSET,
    )
    layer_decay: float = _optimizer_argument(
        float(UNSET),
        "Factor of the learning rate from each part of the network to the part before it: the last layer has "
        "the full rate, the first layers the lowest. 1 = the same rate everywhere. -1 = as the recipe says.",
        above=0,
        maximum=1,
        unset=UNSET,
    )
    warmup_steps: int = _optimizer_argument(
        UNSET,
        "Steps during which the learning rate rises linearly from warmup_learning_rate to "
        "initial_learning_rate. Must be less than max_steps. -1 = as the recipe says.",
        minimum=0,
        unset=UNSET,
    )
    warmup_learning_rate: float = _optimizer_argument(
        1e-4, "Learning rate at the start of warm-up.", minimum=0
    )
    learning_rate_decay_type: str = _optimizer_argument(
        "cosine",
        "How the learning rate falls after warm-up: cosine (to 0 at decay_steps) or stepwise (to the "
        "stepwise_learning_rate_levels).",
        choices=("cosine", "stepwise"),
    )
    decay_steps: int = _optimizer_argument(
        0,
        "Step at which cosine decay reaches 0; must be greater than warmup_steps. 0 = max_steps.",
        minimum=0,
    )
    stepwise_learning_rate_steps: str = _optimizer_argument(
        "",
        "With stepwise decay: the steps at which the learning rate changes, in ascending order, e.g. "
        "100,200.",
    )
    stepwise_learning_rate_levels: str = _optimizer_argument(
        "",
        "With stepwise decay: the learning rate from each of these steps on, e.g. 0.01,0.001.",
    )
    optimizer_type: str = _optimizer_argument(
        AUTO, "The optimizer. auto = as the recipe says.", choices=(AUTO, *OPTIMIZER_ARGUMENTS)
    )
    optimizer_arguments: str = _optimizer_argument(
        "",
        "Settings of the optimizer as name=value, separated by commas. momentum: momentum (0.9), "
        "use_nesterov (false); adam: beta1 (0.9), beta2 (0.999), epsilon; rmsprop: decay (0.9), momentum "
        "(0), epsilon. Empty = these defaults.",
    )
    label_smoothing: float = _augmentation_argument(
        0.1,
        "Fraction of each target's weight that is spread over all classes; with multi_label, over present "
        "and absent.",
        minimum=0,
        below=1,
    )
    weight_decay: float = _augmentation_argument(
        float(UNSET),
        "L2 penalty in the loss: this value times half the sum of squares of the trained kernels "
        "(without biases and batch normalization). -1 = as the recipe says.",
        minimum=0,
        unset=UNSET,
    )
    ema: float = _training_argument(
        float(UNSET),
        "Evaluates and exports a moving average of the weights instead of the weights themselves. The "
        "value is the decay, e.g. 0.999; in early steps it is smaller, so that the average follows. 0 = "
        "off. -1 = as the recipe says.",
        minimum=0,
        below=1,
        unset=UNSET,
    )
    # 20 evaluations show a curve and cost little; at least 25 steps between them keep short runs fast.
    train_steps_per_eval: int = _training_argument(
        0,
        "Steps between evaluations; the model of the best evaluation is exported. 0 = a twentieth of "
        "max_steps, at least 25.",
        minimum=0,
    )
    eval_batch_size: int = _training_argument(
        0,
        "Images per batch of an evaluation; does not change the result. 0 = train_batch_size.",
        minimum=0,
    )
    early_stopping_patience: int = _training_argument(
        UNSET,
        "Stops after this many evaluations in a row without a better top-1 accuracy (with multi_label: or "
        "an equal one and a better mean average precision). 0 = train to max_steps. -1 = as the recipe says.",
        minimum=0,
        unset=UNSET,
    )
    max_duration: int = _training_argument(
        0,
        "Time limit of the training in seconds; the best model so far is kept. The time before an "
        "interruption counts. 0 = no limit.",
        minimum=0,
    )
    mixed_precision: str = _training_argument(
        "auto",
        "Floating-point format of the computation: off (float32), bfloat16, float16 (GPUs only), or auto: "
        "the fastest that the device supports and that the network gains from. Weights are always float32.",
        choices=("auto", "off", "bfloat16", "float16"),
    )
    deterministic: bool = _training_argument(
        False,
        "Uses only deterministic operations, so that a run can be repeated bit for bit on the same kind of"
        " machine. Slower on GPUs.",
    )
    keep_checkpoints: int = _training_argument(
        2,
        "How many of the latest checkpoints are kept in job_dir/checkpoints, in addition to the best "
        "model's.",
        minimum=1,
    )
    serving_formats: str = argument(
        SERVING_FORMATS,
        "Image formats that the served model decodes. With webp, the model can be loaded by TensorFlow 2.20 "
        "and later only; without it, by TensorFlow 2.6 and later. imgpipe predict and imgpipe serve take "
        "WebP in any case.",
        group=Group.EXPORT,
        choices=(SERVING_FORMATS, SERVING_FORMATS_WITH_WEBP),
    )
    job_dir: str = shared_arguments.JOB_DIR
    seed: int = shared_arguments.SEED

    def __post_init__(self) -> None:
        check_fields(self)
        if self.recipe == ORIGINAL:
            for name, value in recipe_values(vars(self)).items():
                object.__setattr__(self, name, value)
        self._check_combinations(recipe_values(vars(self)))

    def _check_combinations(self, known: Mapping[str, Any]) -> None:
        """Checks the arguments against one another; ``known`` has those that a recipe decides."""
        model_type, image_size = known["model_type"], known["image_size"]
        weights, freeze = known["weights"], known["freeze"]
        if self.max_steps != UNSET and self.warmup_steps >= self.max_steps:
            raise InvalidArgumentError(
                f"warmup_steps={self.warmup_steps} is not less than max_steps={self.max_steps}",
                remedy="lower warmup_steps or raise max_steps",
            )
        kind = MODEL_TYPES[model_type]
        needs_imagenet_weights = weights == "imagenet" and not self.pretrained_checkpoint_path
        if needs_imagenet_weights and not kind.has_imagenet_weights:
            with_weights = [name for name, other in MODEL_TYPES.items() if other.has_imagenet_weights]
            raise InvalidArgumentError(
                f"weights=imagenet, but there are no ImageNet weights for model_type={model_type}",
                remedy=f"set weights to none, or model_type to one of: {', '.join(with_weights)}",
            )
        if freeze not in ("none", "backbone", *kind.stage_names):
            raise InvalidArgumentError(
                f"freeze={freeze!r} is not a part of model_type={model_type}",
                remedy=f"set freeze to none, backbone or one of: {', '.join(kind.stage_names)}",
            )
        if freeze != "none" and weights == "none" and not self.pretrained_checkpoint_path:
            raise InvalidArgumentError(
                f"freeze={freeze} with weights=none would freeze random weights",
                remedy="set weights to imagenet, set pretrained_checkpoint_path, or set freeze to none",
            )
        if 0 < image_size < SMALLEST_IMAGE_SIZE:
            raise InvalidArgumentError(
                f"image_size={image_size} is too small for model_type={model_type}",
                remedy=f"set it to at least {SMALLEST_IMAGE_SIZE}, or to 0 for the model's default size",
            )
        for name, decay_type in _DECAY_ARGUMENTS.items():
            if getattr(self, name) and self.learning_rate_decay_type != decay_type:
                raise InvalidArgumentError(
                    f"{name} requires learning_rate_decay_type={decay_type}, "
                    f"but it is {self.learning_rate_decay_type}",
                    remedy=f"set learning_rate_decay_type to {decay_type}, or remove {name}",
                )
        if 0 < self.decay_steps <= self.warmup_steps:
            raise InvalidArgumentError(
                f"decay_steps={self.decay_steps} is not more than warmup_steps={self.warmup_steps}",
                remedy="raise decay_steps or lower warmup_steps",
            )
        self.stepwise_learning_rates()
        optimizer_settings(known["optimizer_type"], self.optimizer_arguments)

    def resolved(self, data: TrainingData | None = None) -> "TrainingArguments":
        """Returns the settings with the recipe's values for a data set in place of `auto` and -1.

        Without data, those that depend on it stay -1.
        """
        return dataclasses.replace(self, **recipe_values(vars(self), data))

    def stepwise_learning_rates(self) -> tuple[tuple[int, float], ...]:
        """Returns (step, learning rate from this step on) in ascending order; empty if not stepwise.

        Raises:
            InvalidArgumentError: if a list is malformed, or the two lists do not match.
        """
        if self.learning_rate_decay_type != "stepwise":
            return ()
        steps = _numbers("stepwise_learning_rate_steps", self.stepwise_learning_rate_steps, int)
        levels = _numbers("stepwise_learning_rate_levels", self.stepwise_learning_rate_levels, float)
        if not steps or len(steps) != len(levels):
            raise InvalidArgumentError(
                f"learning_rate_decay_type=stepwise with {len(steps)} stepwise_learning_rate_steps and "
                f"{len(levels)} stepwise_learning_rate_levels",
                remedy="use two lists of equal length: level i applies from step i on",
            )
        if steps[0] < 1 or any(after <= before for before, after in pairwise(steps)):
            raise InvalidArgumentError(
                f"stepwise_learning_rate_steps={self.stepwise_learning_rate_steps!r} is not a list of "
                "increasing steps from 1 on",
                remedy="list each step once in increasing order, e.g. 100,200",
            )
        if not all(0 <= level < math.inf for level in levels):
            raise InvalidArgumentError(
                f"stepwise_learning_rate_levels={self.stepwise_learning_rate_levels!r} contains a negative "
                "or non-finite learning rate",
                remedy="use a finite learning rate of at least 0 for each step, e.g. 0.01,0.001",
            )
        return tuple(zip(steps, levels, strict=True))

    def resolved_image_size(self) -> int:
        """Returns the image size in pixels; by default the model's."""
        return self.image_size or MODEL_TYPES[self.model_type].image_size

    def resolved_steps_per_eval(self) -> int:
        """Returns the number of steps between evaluations, at most max_steps."""
        return min(self.max_steps, self.train_steps_per_eval or max(25, self.max_steps // 20))

    def resolved_eval_batch_size(self) -> int:
        """Returns the batch size of evaluations; by default ``train_batch_size``."""
        return self.eval_batch_size or self.train_batch_size


@dataclass(frozen=True)
class RecipeTrainingArguments(TrainingArguments):
    """The settings of a training run in a pipeline, where the recipe is ``auto`` by default."""

    recipe: str = same_argument(TrainingArguments, "recipe", default=AUTO)


def _numbers(name: str, text: str, number_type: type[Number]) -> list[Number]:
    try:
        return [number_type(item) for item in filter(None, (part.strip() for part in text.split(",")))]
    except ValueError:
        numbers = "integers" if number_type is int else "numbers"
        raise InvalidArgumentError(
            f"{name}={text!r} is not a list of {numbers}", remedy=f"use {numbers} separated by commas"
        ) from None
