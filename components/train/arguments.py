"""The arguments of training, under the names of Google's built-in algorithm.

The defaults are those of the original algorithm where it had any that are known; where it had
none, the comment beside the field says why ours is what it is.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

from components.common import shared_arguments
from components.common.arguments import argument, check_fields, nearest_name
from components.common.errors import InvalidArgumentError
from components.train.model_types import MODEL_TYPES, SMALLEST_IMAGE_SIZE

# What optimizer_arguments may hold, by optimizer, with the optimizer's own defaults.
OPTIMIZER_ARGUMENTS = MappingProxyType(
    {
        "momentum": {"momentum": 0.9, "use_nesterov": False},
        "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7},
        "rmsprop": {"decay": 0.9, "momentum": 0.0, "epsilon": 1e-7},
    }
)


@dataclass(frozen=True)
class TrainingArguments:
    """Every setting of a training; checked when it is made.

    Raises:
        InvalidArgumentError: on construction, naming each argument that is wrong.
    """

    # The original required max_steps; a form needs a default. 1000 steps of 32 are about ten epochs
    # of a few thousand images, the size of a first data set.
    max_steps: int = argument(1000, "Training steps (batches); the job ends after the last one.", minimum=1)
    train_batch_size: int = shared_arguments.train_batch_size()
    num_classes: int = shared_arguments.num_classes()
    num_eval_images: int = shared_arguments.num_eval_images()
    model_type: str = argument(
        "efficientnet-b0",
        "The network. mobilenet-v2 is the smallest and quickest, resnet-18 and efficientnet-b0 follow; the "
        "larger its number, the more accurate and the slower a network is. resnet-18, 34 and 200 have no "
        "ImageNet weights.",
        choices=tuple(MODEL_TYPES),
    )
    image_size: int = shared_arguments.image_size()
    weights: str = argument(
        "imagenet",
        "Where the network starts: imagenet (weights trained on ImageNet; needs far fewer images of your "
        "own) or none (random weights; all layers are trained).",
        choices=("imagenet", "none"),
    )
    freeze: str = argument(
        "none",
        "What is not trained: none (the whole network is trained) or backbone (only the last layer is; "
        "many times faster, and safer with few images). backbone needs weights=imagenet.",
        choices=("none", "backbone"),
    )
    initial_learning_rate: float = argument(
        1e-4, "Learning rate after warm-up; it then falls to 0 along a cosine at max_steps.", above=0
    )
    # The original's default is not known. 0 leaves short runs their full rate; long runs with a large
    # rate set it (the original's example: 1000 of 30000 steps).
    warmup_steps: int = argument(
        0,
        "Steps over which the learning rate rises in a straight line from warmup_learning_rate to "
        "initial_learning_rate. Must be less than max_steps.",
        minimum=0,
    )
    warmup_learning_rate: float = argument(1e-4, "Learning rate at the start of warm-up.", minimum=0)
    optimizer_type: str = argument("momentum", "The optimizer.", choices=tuple(OPTIMIZER_ARGUMENTS))
    optimizer_arguments: str = argument(
        "",
        "Settings of the optimizer as name=value, separated by commas. momentum: momentum (0.9), "
        "use_nesterov (false); adam: beta1 (0.9), beta2 (0.999), epsilon; rmsprop: decay (0.9), momentum "
        "(0), epsilon. Empty = these defaults.",
    )
    label_smoothing: float = argument(
        0.1, "Share of each target's weight that is spread over all classes.", minimum=0, below=1
    )
    weight_decay: float = argument(
        1e-4,
        "L2 penalty in the loss: weight_decay times half the sum of squares of the trained kernels "
        "(not of biases and batch normalization).",
        minimum=0,
    )
    # Ours: 20 evaluations show a curve and cost little; the floor keeps evaluation a small part of
    # short runs.
    train_steps_per_eval: int = argument(
        0,
        "Steps between evaluations; the model of the best evaluation is the one that is exported. "
        "0 = a twentieth of max_steps, at least 25.",
        minimum=0,
    )
    eval_batch_size: int = argument(
        0, "Images in a batch of an evaluation; has no effect on the result. 0 = train_batch_size.", minimum=0
    )
    seed: int = shared_arguments.seed()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.warmup_steps >= self.max_steps:
            raise InvalidArgumentError(
                f"warmup_steps={self.warmup_steps} is not less than max_steps={self.max_steps}",
                remedy="lower warmup_steps or raise max_steps",
            )
        kind = MODEL_TYPES[self.model_type]
        if self.weights == "imagenet" and not kind.has_imagenet_weights:
            with_weights = [name for name, other in MODEL_TYPES.items() if other.has_imagenet_weights]
            raise InvalidArgumentError(
                f"weights=imagenet, but there are no ImageNet weights for model_type={self.model_type}",
                remedy=f"use weights=none, or one of: {', '.join(with_weights)}",
            )
        if self.freeze == "backbone" and self.weights == "none":
            raise InvalidArgumentError(
                "freeze=backbone with weights=none would train a last layer on random features",
                remedy="use weights=imagenet, or freeze=none",
            )
        if 0 < self.image_size < SMALLEST_IMAGE_SIZE:
            raise InvalidArgumentError(
                f"image_size={self.image_size} is too small for model_type={self.model_type}",
                remedy=f"give at least {SMALLEST_IMAGE_SIZE}, or 0 for the model's own size",
            )
        self.optimizer_settings()

    def optimizer_settings(self) -> dict[str, float | bool]:
        """Returns the optimizer's settings: its defaults, overridden by ``optimizer_arguments``.

        Raises:
            InvalidArgumentError: for a name that the optimizer does not have, a name that is given
                twice, or a value that the setting cannot have.
        """
        defaults = OPTIMIZER_ARGUMENTS[self.optimizer_type]
        given: dict[str, float | bool] = {}
        where = f"optimizer_arguments={self.optimizer_arguments!r}"
        for pair in filter(None, (part.strip() for part in self.optimizer_arguments.split(","))):
            name, _, text = (word.strip() for word in pair.partition("="))
            if name not in defaults:
                raise InvalidArgumentError(
                    f"optimizer_type={self.optimizer_type} has no setting {name!r}",
                    where=where,
                    remedy=nearest_name(name, defaults),
                )
            if name in given:
                raise InvalidArgumentError(
                    f"{name} is given twice", where=where, remedy="leave one of the two out"
                )
            value = _setting(name, text)
            if value is None:
                raise InvalidArgumentError(
                    f"{name}={text!r} is not a value for {name}",
                    where=where,
                    remedy=f"give {_ALLOWED_SETTINGS.get(name, _FRACTION)}",
                )
            given[name] = value
        return {**defaults, **given}

    def resolved_image_size(self) -> int:
        """Returns the image size in pixels, the model's own where none was given."""
        return self.image_size or MODEL_TYPES[self.model_type].image_size

    def resolved_steps_per_eval(self) -> int:
        """Returns the number of steps between evaluations, at most max_steps."""
        return min(self.max_steps, self.train_steps_per_eval or max(25, self.max_steps // 20))

    def resolved_eval_batch_size(self) -> int:
        """Returns the batch size of evaluations."""
        return self.eval_batch_size or self.train_batch_size


_ALLOWED_SETTINGS = MappingProxyType({"use_nesterov": "true or false", "epsilon": "a number greater than 0"})
_FRACTION = "a number from 0 to below 1"


def _setting(name: str, text: str) -> float | bool | None:
    """Returns the value that the text says, or None if the setting cannot have it."""
    if name == "use_nesterov":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    try:
        value = float(text)
    except ValueError:
        return None
    # epsilon keeps a division from one by zero.
    allowed = 0 < value < math.inf if name == "epsilon" else 0 <= value < 1
    return value if allowed else None
