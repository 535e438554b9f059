"""Recipes: settings that work well together, with the expected result.

The pipeline's own defaults are those of Google's built-in algorithm, which suit long runs on large
data. `imgpipe run` starts from a recipe instead, so that it works well on a laptop without any flags.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from imgpipe.components.train.model_types import MODEL_TYPES


@dataclass(frozen=True)
class Recipe:
    """Tested settings.

    Attributes:
        description: The network, its initial weights and the suitable data.
        expected: The expected result, with machine and time.
        parameters: Pipeline parameters; the user's flags override them.
    """

    description: str
    expected: str
    parameters: Mapping[str, Any]


def _read_recipes() -> Mapping[str, Recipe]:
    recipes = {}
    for name in _NAMES:
        text = files("imgpipe.pipelines").joinpath("recipe_files", f"{name}.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        recipes[name] = Recipe(
            content["description"], content["expected"], MappingProxyType(content["parameters"])
        )
    return MappingProxyType(recipes)


_NAMES = ("digits", "digits-efficientnet", "frozen-backbone", "fine-tune", "from-scratch", "original")
RECIPES = _read_recipes()


def recipe_for(given: Mapping[str, Any], *, sample: bool) -> str:
    """Returns the name of the recipe that fits the given parameters.

    Args:
        given: The pipeline parameters that the user set.
        sample: Whether the run trains on the digits sample.
    """
    if sample:
        return "digits"
    model_type = MODEL_TYPES.get(given.get("model_type", ""))
    without_weights = model_type is not None and not model_type.has_imagenet_weights
    if given.get("weights", "none" if without_weights else "imagenet") == "none":
        return "from-scratch"
    return "fine-tune" if given.get("freeze", "backbone") == "none" else "frozen-backbone"


def default_of(field: "dataclasses.Field[Any]") -> str:
    """Returns an argument's default for help texts: each recipe's value if recipes differ, else its own."""
    recipes: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        recipes.setdefault(str(recipe.parameters.get(field.name, field.default)), []).append(name)
    if len(recipes) == 1:
        return str(field.default)
    values = ", ".join(f"{value or 'empty'} ({', '.join(names)})" for value, names in recipes.items())
    return f"from the recipe: {values}"


def recipe_parameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe's parameters, overridden by the given ones.

    For short runs, the recipe's warm-up is limited to a tenth of the steps.
    """
    parameters = {**RECIPES[name].parameters, **given}
    if "warmup_steps" in parameters and "warmup_steps" not in given:
        parameters["warmup_steps"] = min(parameters["warmup_steps"], max(0, parameters["max_steps"] // 10))
    return parameters
