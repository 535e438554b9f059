"""Without a search space, the recipe's values are searched around, except for what the user has set."""

import pytest

from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.train.recipes import RECIPES
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.default_space import default_space
from imgpipe.components.tune.search_space import check_search_space, read_request


def names(space):
    if not space.text:
        return []
    return [part.partition("=")[0] for part in space.text.split("; ")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_space_of_each_recipe_contains_its_values_and_only_valid_ones(recipe):
    space = default_space({"recipe": recipe}, has_weights=lambda _: True)
    request = read_request(TuneArguments(tune=space.text))
    check_search_space(request, RecipeTrainingArguments(recipe=recipe))
    by_name = {parameter.name: parameter for parameter in request.parameters}
    assert list(by_name) == ["initial_learning_rate", "weight_decay", "augmentation", "model_type"]
    parameters = RECIPES[recipe].parameters
    rate = by_name["initial_learning_rate"]
    assert rate.minimum < parameters["initial_learning_rate"] < rate.maximum
    assert by_name["model_type"].values[0] == parameters["model_type"]


def test_what_the_user_has_set_is_not_searched():
    given = {"initial_learning_rate": 0.1, "augmentation": "none", "model_type": "resnet-50"}
    assert names(default_space(given, has_weights=lambda _: True)) == ["weight_decay"]
    full = {**given, "weight_decay": 0.0}
    assert names(default_space(full, has_weights=lambda _: True)) == []


def test_networks_without_weights_are_not_searched():
    only_one = default_space({}, has_weights=lambda name: name == "mobilenet-v2")
    assert names(only_one) == ["initial_learning_rate", "weight_decay", "augmentation"]
    two = default_space({}, has_weights=lambda name: name != "resnet-50")
    assert "model_type=mobilenet-v2,efficientnet-v2-b0" in two.text
    assert two.left_out == ("resnet-50",)


@pytest.mark.parametrize("given", [{"freeze": "stage2"}, {"pretrained_checkpoint_path": "model"}])
def test_network_is_not_searched_if_other_values_belong_to_one(given):
    assert "model_type" not in names(default_space(given, has_weights=lambda _: True))
