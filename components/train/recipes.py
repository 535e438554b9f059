"""Recipes: settings that work well together, scaled to the data, with the expected result."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from imgpipe.components.train.model_types import MODEL_TYPES

# The value of a text argument, and of a number, that is left to the recipe.
AUTO, UNSET = "auto", -1
ORIGINAL = "original"
# The last layer on frozen features, then the whole network.
HEAD_FIRST = "head-then-fine-tune"
FROZEN = "frozen-backbone"
# For scikit-learn's digits, on which `imgpipe run` trains without data.
SAMPLE_RECIPE = "digits"
# The values of all arguments that a recipe decides while they are left to it. An image_size of 0 is the
# recipe's or, if it has none, the model's own.
UNSET_VALUES: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("model_type", "weights", "freeze", "optimizer_type", "augmentation"), AUTO),
        **dict.fromkeys(("max_steps", "train_batch_size", "warmup_steps", "early_stopping_patience"), UNSET),
        **dict.fromkeys(("initial_learning_rate", "weight_decay", "ema", "layer_decay"), float(UNSET)),
        "image_size": 0,
    }
)
# Those that most recipes leave out, with their values there.
_USUAL_VALUES: Mapping[str, Any] = MappingProxyType(
    {"image_size": 0, "augmentation": "none", "ema": 0.0, "layer_decay": 1.0, "early_stopping_patience": 0}
)
# A batch of images up to this size fits into the memory of a small machine.
_LARGEST_SIZE_OF_FULL_BATCH = 320
# The numbers of steps grow with the fourth root of the number of classes, within these limits.
_MIN_CLASS_FACTOR, _MAX_CLASS_FACTOR = 0.75, 4.0


@dataclass(frozen=True)
class TrainingData:
    """What a schedule depends on.

    Attributes:
        images: Number of training images.
        classes: Number of labels.
    """

    images: int
    classes: int


@dataclass(frozen=True)
class Schedule:
    """The length of a recipe's training on the data set that it was tested on, and on others.

    The number of images that the training sees grows with the square root of the number of images: a small
    data set is repeated more often than a large one.

    Attributes:
        max_steps: Steps on the data set of the test.
        train_batch_size: Images per step.
        images: Training images of that data set.
        classes: Its labels.
        min_steps: Steps on the smallest data set.
        min_epochs: How often each image is seen on the largest data set.
        warmup: Fraction of the steps in which the learning rate rises.
    """

    max_steps: int
    train_batch_size: int
    images: int
    classes: int
    min_steps: int
    min_epochs: float
    warmup: float

    def batch_size(self, data: TrainingData, image_size: int) -> int:
        """Returns the batch size: a smaller one for few or large images, a power of 2."""
        pixels = min(1.0, (_LARGEST_SIZE_OF_FULL_BATCH / image_size) ** 2)
        limit = min(self.train_batch_size * pixels, data.images)
        return int(2 ** math.floor(math.log2(max(1.0, limit))))

    def steps(self, data: TrainingData, batch_size: int) -> int:
        """Returns the number of steps, in whole tens."""
        classes = (data.classes / self.classes) ** 0.25 if data.classes else 1.0
        factor = min(max(classes, _MIN_CLASS_FACTOR), _MAX_CLASS_FACTOR)
        seen = self.max_steps * self.train_batch_size * math.sqrt(data.images / self.images) * factor
        steps = max(seen, self.min_epochs * data.images) / batch_size
        return max(self.min_steps, 10 * math.ceil(steps / 10))

    def warmup_steps(self, max_steps: int) -> int:
        """Returns the number of steps in which the learning rate rises."""
        return int(self.warmup * max_steps)


@dataclass(frozen=True)
class Recipe:
    """Tested settings.

    Attributes:
        description: The network, its initial weights and the suitable data.
        expected: The expected result, with machine and time.
        parameters: Training arguments; explicit values override them.
        schedule: The length of the training; None if ``parameters`` has it.
    """

    description: str
    expected: str
    parameters: Mapping[str, Any]
    schedule: Schedule | None


def _read_recipes() -> Mapping[str, Recipe]:
    recipes = {}
    folder = files("imgpipe.components.train").joinpath("recipe_files")
    for name in _NAMES:
        content = yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
        schedule = content.get("schedule")
        recipes[name] = Recipe(
            content["description"],
            content["expected"],
            MappingProxyType(content["parameters"]),
            Schedule(**schedule) if schedule else None,
        )
    return MappingProxyType(recipes)


_NAMES = (HEAD_FIRST, FROZEN, "fine-tune", "from-scratch", SAMPLE_RECIPE, "digits-efficientnet", ORIGINAL)
RECIPES = _read_recipes()


def default_of(field: "dataclasses.Field[Any]") -> str:
    """Returns an argument's default for help texts: the recipes' values if they decide it, else its own."""
    if field.name not in UNSET_VALUES:
        return str(field.default)
    recipes: dict[str, list[str]] = {}
    other = _USUAL_VALUES.get(field.name, "by the data")
    for name, recipe in RECIPES.items():
        recipes.setdefault(str(recipe.parameters.get(field.name, other)), []).append(name)
    values = ", ".join(f"{value} ({', '.join(names)})" for value, names in recipes.items())
    return f"from the recipe: {values}"


def recipe_for(values: Mapping[str, Any]) -> str:
    """Returns the name of the recipe: the given one, or the one that ``auto`` selects.

    Args:
        values: Training arguments by name; missing ones are left to the recipe.
    """
    recipe = str(values.get("recipe", AUTO))
    if recipe != AUTO:
        return recipe
    given = _explicit(values)
    model_type = MODEL_TYPES.get(given.get("model_type", ""))
    without_weights = model_type is not None and not model_type.has_imagenet_weights
    if given.get("weights", "none" if without_weights else "imagenet") == "none":
        return "from-scratch"
    if "freeze" not in given:
        return HEAD_FIRST
    return FROZEN if given["freeze"] == "backbone" else "fine-tune"


def recipe_of_trials(values: Mapping[str, Any]) -> str:
    """Returns the name of the recipe of a tuning run's trials, for which ``auto`` selects a quick one."""
    recipe = recipe_for(values)
    return FROZEN if recipe == HEAD_FIRST and values.get("recipe", AUTO) == AUTO else recipe


def recipe_values(values: Mapping[str, Any], data: TrainingData | None = None) -> dict[str, Any]:
    """Returns the recipe's name and the values of all arguments that it decides; explicit ones unchanged.

    Args:
        values: Training arguments by name; missing ones are left to the recipe.
        data: The data set. Without it, values that depend on the data are missing from the result, unless
            they are explicit.
    """
    name = recipe_for(values)
    recipe, given = RECIPES[name], _explicit(values)
    result: dict[str, Any] = {**_USUAL_VALUES, **recipe.parameters, **given, "recipe": name}
    schedule = recipe.schedule
    if data is not None and schedule is not None:
        size = result["image_size"] or MODEL_TYPES[result["model_type"]].image_size
        if "train_batch_size" not in result:
            batch_size = schedule.batch_size(data, size)
            result["train_batch_size"] = batch_size
            if "initial_learning_rate" not in given and batch_size < schedule.train_batch_size:
                # Goyal et al. (2017): the learning rate is proportional to the batch size.
                result["initial_learning_rate"] *= batch_size / schedule.train_batch_size
        result.setdefault("max_steps", schedule.steps(data, result["train_batch_size"]))
    if schedule is not None and "max_steps" in result:
        result.setdefault("warmup_steps", schedule.warmup_steps(result["max_steps"]))
    return result


def _explicit(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: values[name] for name, unset in UNSET_VALUES.items() if name in values and values[name] != unset
    }
