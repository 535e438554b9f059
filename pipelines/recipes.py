"""Recipes: settings that belong together, with the result to expect of them.

The pipeline's own defaults are those of Google's built-in algorithm, which suit long runs on large
data. `imgpipe run` starts from a recipe instead, so that it does well without a flag on a laptop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from components.train.model_types import MODEL_TYPES


@dataclass(frozen=True)
class Recipe:
    """Settings that were tried together.

    Attributes:
        description: What it does.
        expected: The result, on which machine, in which time.
        parameters: Of the pipeline; a flag that the user gives goes before.
    """

    description: str
    expected: str
    parameters: Mapping[str, Any]


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits": Recipe(
            "a small network from random weights, for the digits sample",
            "top-1 accuracy 0.97 to 0.99 on the held-out fifth, about a minute of training on two cores",
            MappingProxyType(
                {
                    "model_type": "resnet-18",
                    "image_size": 32,
                    "weights": "none",
                    "max_steps": 200,
                    "train_batch_size": 64,
                    "initial_learning_rate": 0.05,
                    "warmup_steps": 20,
                    "weight_decay": 5e-4,
                }
            ),
        ),
        "frozen-backbone": Recipe(
            "ImageNet weights are kept, only the last layer is trained",
            "top-1 accuracy 0.89 to 0.91 on 550 photos of flowers in 5 classes after training on 2,569, "
            "a minute and a half on two cores",
            MappingProxyType(
                {
                    "model_type": "mobilenet-v2",
                    "weights": "imagenet",
                    "freeze": "backbone",
                    "max_steps": 1000,
                    "initial_learning_rate": 0.01,
                    "weight_decay": 0.03,
                }
            ),
        ),
        "from-scratch": Recipe(
            "a network from random weights: for pictures unlike photos, and many of them",
            "top-1 accuracy 0.69 on the same 550 photos at --image-size 64, 14 minutes on two cores",
            MappingProxyType(
                {
                    "model_type": "resnet-18",
                    "weights": "none",
                    "max_steps": 1000,
                    "train_batch_size": 64,
                    "initial_learning_rate": 0.05,
                    "warmup_steps": 100,
                    "weight_decay": 5e-4,
                }
            ),
        ),
        "fine-tune": Recipe(
            "the whole network is trained on from ImageNet weights: the most accurate, the slowest",
            "top-1 accuracy 0.94 on the same 550 photos, 15 minutes on two cores",
            MappingProxyType(
                {
                    "model_type": "mobilenet-v2",
                    "weights": "imagenet",
                    "freeze": "none",
                    "max_steps": 300,
                    "initial_learning_rate": 0.01,
                    "warmup_steps": 50,
                    "weight_decay": 1e-4,
                }
            ),
        ),
        "original": Recipe(
            "the defaults of Google's built-in algorithm",
            "depends on the data: give max_steps, initial_learning_rate and warmup_steps",
            MappingProxyType({}),
        ),
    }
)


def recipe_for(given: Mapping[str, Any], *, sample: bool) -> str:
    """Returns the name of the recipe that fits what the user gave.

    Args:
        given: The pipeline parameters that the user set.
        sample: Whether the digits sample is trained on.
    """
    if sample:
        return "digits"
    kind = MODEL_TYPES.get(given.get("model_type", ""))
    without_weights = kind is not None and not kind.has_imagenet_weights
    if given.get("weights", "none" if without_weights else "imagenet") == "none":
        return "from-scratch"
    return "fine-tune" if given.get("freeze", "backbone") == "none" else "frozen-backbone"


def settings_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe's parameters with those that the user set in their place.

    A warm-up of the recipe is cut to a tenth of the steps where the user asks for a short run.
    """
    settings = {**RECIPES[name].parameters, **given}
    if "warmup_steps" in settings and "warmup_steps" not in given:
        settings["warmup_steps"] = min(settings["warmup_steps"], max(0, settings["max_steps"] // 10))
    return settings
