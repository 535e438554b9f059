"""Recipes consist of valid pipeline arguments."""

import pytest

from imgpipe.components.common.arguments import flat_fields, from_values
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.pipelines.recipes import RECIPES, recipe_for, recipe_parameters


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_has_an_expected_result(name):
    recipe = RECIPES[name]
    assert set(recipe.parameters) <= set(flat_fields(PIPELINE_ARGUMENTS))
    from_values(TrainingArguments, recipe.parameters)
    assert recipe.description
    assert recipe.expected


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "frozen-backbone"),
        ({"model_type": "mobilenet-v2"}, "frozen-backbone"),
        ({"freeze": "backbone"}, "frozen-backbone"),
        ({"weights": "none"}, "from-scratch"),
        ({"freeze": "none"}, "fine-tune"),
        ({"model_type": "resnet-18"}, "from-scratch"),
        ({"model_type": "no such model"}, "frozen-backbone"),
    ],
)
def test_the_recipe_depends_on_the_given_arguments(given, name):
    assert recipe_for({"images": "photos", **given}, sample=False) == name


def test_the_sample_has_its_own_recipe():
    assert recipe_for({}, sample=True) == "digits"


def test_a_given_flag_overrides_the_recipe():
    assert recipe_parameters("digits", {"max_steps": 1000, "seed": 5})["max_steps"] == 1000
    assert recipe_parameters("digits", {"max_steps": 1000, "seed": 5})["seed"] == 5


def test_a_short_run_has_a_short_warm_up_unless_one_is_given():
    assert recipe_parameters("digits", {"max_steps": 30})["warmup_steps"] == 3
    assert recipe_parameters("digits", {"max_steps": 3})["warmup_steps"] == 0
    assert recipe_parameters("digits", {"max_steps": 30, "warmup_steps": 15})["warmup_steps"] == 15
