"""A recipe decides what is left to it, in proportion to the data; explicit values override it."""

import json
from pathlib import Path

import pytest

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.common.dataset import Manifest, Shard, Split
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS
from imgpipe.components.train.arguments import RecipeTrainingArguments, TrainingArguments
from imgpipe.components.train.command_line import command_line_arguments
from imgpipe.components.train.recipes import (
    RECIPES,
    UNSET_VALUES,
    TrainingData,
    recipe_for,
    recipe_of_trials,
    recipe_values,
)
from imgpipe.components.train.resolution import resolve_arguments, steps_within

FLOWERS, DIGITS = TrainingData(2569, 5), TrainingData(1437, 10)
SCALED = [name for name, recipe in RECIPES.items() if recipe.schedule]
TRAIN_PAGE = Path(__file__).parents[3] / "docs" / "train.md"


def manifest(images: int, classes: int) -> Manifest:
    def split(count: int) -> Split:
        return Split((Shard("0", count, count, "0"),), (count // classes,) * classes)

    splits = {"train": split(images), "validation": split(classes)}
    return Manifest(tuple(map(str, range(classes))), splits, {})


def steps(recipe: str, images: int, classes: int = 5) -> int:
    return recipe_values({"recipe": recipe}, TrainingData(images, classes))["max_steps"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_has_an_expected_result(name):
    recipe = RECIPES[name]
    assert set(recipe.parameters) <= set(UNSET_VALUES) <= set(flat_fields(PIPELINE_ARGUMENTS))
    resolved = vars(TrainingArguments(recipe=name).resolved(FLOWERS))
    assert not [n for n, unset in UNSET_VALUES.items() if n != "image_size" and resolved[n] == unset]
    assert resolved["recipe"] == name
    assert recipe.description
    assert recipe.expected


def test_what_a_recipe_decides_is_left_to_it_by_default():
    fields = flat_fields([RecipeTrainingArguments])
    assert {name: fields[name].default for name in UNSET_VALUES} == UNSET_VALUES
    assert fields["recipe"].default == "auto"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "head-then-fine-tune"),
        ({"model_type": "mobilenet-v2"}, "head-then-fine-tune"),
        ({"freeze": "backbone"}, "frozen-backbone"),
        ({"weights": "auto", "freeze": "auto", "model_type": "auto"}, "head-then-fine-tune"),
        ({"weights": "none"}, "from-scratch"),
        ({"freeze": "none"}, "fine-tune"),
        ({"freeze": "stage2"}, "fine-tune"),
        ({"model_type": "resnet-18"}, "from-scratch"),
        ({"model_type": "no such model"}, "head-then-fine-tune"),
        ({"recipe": "digits", "freeze": "none"}, "digits"),
    ],
)
def test_auto_depends_on_the_given_arguments(given, name):
    assert recipe_for(given) == name


def test_the_trials_of_a_tuning_are_quick_unless_they_shall_not_be():
    assert recipe_of_trials({}) == "frozen-backbone"
    assert recipe_of_trials({"recipe": "head-then-fine-tune"}) == "head-then-fine-tune"
    assert recipe_of_trials({"freeze": "none"}) == "fine-tune"


def test_the_tested_data_sets_have_the_tested_schedules():
    assert steps("frozen-backbone", *vars(FLOWERS).values()) == 1000
    assert steps("fine-tune", *vars(FLOWERS).values()) == 300
    assert steps("from-scratch", *vars(FLOWERS).values()) == 1000
    assert steps("digits", *vars(DIGITS).values()) == 200
    assert steps("digits-efficientnet", *vars(DIGITS).values()) == 400
    assert recipe_values({"recipe": "fine-tune"}, FLOWERS)["warmup_steps"] == 30


@pytest.mark.parametrize("recipe", SCALED)
def test_steps_follow_from_the_number_of_images_and_classes(recipe):
    sizes = (50, 250, 2569, 5000, 50_000, 500_000)
    planned = [steps(recipe, images) for images in sizes]
    assert planned == sorted(planned)
    assert len(set(planned[1:])) == len(sizes) - 1
    epochs = [
        count * recipe_values({"recipe": recipe}, TrainingData(images, 5))["train_batch_size"] / images
        for images, count in zip(sizes, planned, strict=True)
    ]
    assert epochs == sorted(epochs, reverse=True)
    assert 50 <= planned[0] <= 400
    # Neither a few percent of the images nor a month of training.
    assert 2 <= epochs[-1] <= 20
    assert steps(recipe, 5000, 81) > steps(recipe, 5000, 5)


@pytest.mark.parametrize(("images", "size", "batch"), [(2, 0, 2), (9, 0, 8), (50, 0, 32), (5000, 600, 8)])
def test_a_batch_fits_the_images_and_the_memory(images, size, batch):
    values = recipe_values({"recipe": "fine-tune", "image_size": size}, TrainingData(images, 2))
    assert values["train_batch_size"] == batch
    assert values["initial_learning_rate"] == pytest.approx(0.01 * batch / 32)


def test_explicit_values_override_the_recipe_and_the_rest_follows_from_them():
    explicit = {
        "image_size": 64,
        "train_batch_size": 16,
        "initial_learning_rate": 0.5,
        "weight_decay": 0.0,
        "optimizer_type": "adam",
    }
    arguments = RecipeTrainingArguments(recipe="fine-tune", seed=5, **explicit).resolved(FLOWERS)
    assert {name: getattr(arguments, name) for name in explicit} == explicit
    assert (arguments.max_steps, arguments.warmup_steps, arguments.seed) == (600, 60, 5)
    short = RecipeTrainingArguments(recipe="fine-tune", max_steps=3).resolved(FLOWERS)
    assert (short.max_steps, short.warmup_steps) == (3, 0)
    warm = RecipeTrainingArguments(recipe="fine-tune", max_steps=30, warmup_steps=15)
    assert warm.resolved(FLOWERS).warmup_steps == 15
    assert RecipeTrainingArguments(recipe="fine-tune", warmup_steps=0).resolved(FLOWERS).warmup_steps == 0


def test_resolved_arguments_do_not_change_again():
    resolved = RecipeTrainingArguments(max_minutes=5.0).resolved(FLOWERS)
    assert resolved.recipe == "head-then-fine-tune"
    for arguments in (resolved, TrainingArguments()):
        assert resolve_arguments(arguments, manifest(50, 2)) == arguments


def test_a_command_line_means_the_same_arguments_before_and_after_they_are_resolved():
    assert command_line_arguments(TrainingArguments()) == []
    assert command_line_arguments(TrainingArguments(max_steps=7, seed=3)) == ["--max_steps=7", "--seed=3"]
    assert command_line_arguments(TrainingArguments(recipe="auto", ema=0.5)) == ["--recipe=auto", "--ema=0.5"]
    resolved = command_line_arguments(TrainingArguments(recipe="auto", freeze="backbone").resolved(FLOWERS))
    assert {"--recipe=frozen-backbone", "--max_steps=1000", "--freeze=backbone"} <= set(resolved)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"recipe": "finetune"}, "did you mean fine-tune"),
        ({"recipe": "auto", "freeze": "stage9"}, "freeze='stage9' is not a part of model_type=mobilenet-v2"),
        ({"recipe": "frozen-backbone", "weights": "none"}, "freeze=backbone with weights=none"),
        ({"recipe": "auto", "max_steps": 5, "warmup_steps": 5}, "warmup_steps=5 is not less than max_steps"),
        ({"recipe": "auto", "max_steps": 0}, "max_steps=0: must be at least 1, or -1"),
        ({"recipe": "auto", "initial_learning_rate": -2.0}, "must be greater than 0, or -1"),
        ({"recipe": "auto", "optimizer_type": "adam", "optimizer_arguments": "momentum=0.5"}, "momentum"),
    ],
)
def test_wrong_values_are_rejected_before_the_data_is_known(values, problem):
    with pytest.raises(InvalidArgumentError, match=problem):
        TrainingArguments(**values)


def test_a_warm_up_longer_than_the_steps_for_the_data_is_rejected():
    arguments = RecipeTrainingArguments(recipe="frozen-backbone", warmup_steps=500)
    with pytest.raises(InvalidArgumentError, match="warmup_steps=500 is not less than max_steps=120"):
        resolve_arguments(arguments, manifest(50, 2))


def test_a_training_from_an_earlier_model_trains_its_network(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").touch()
    (model / "provenance.json").write_text(json.dumps({"model_type": "resnet-18", "image_size": 32}))
    arguments = RecipeTrainingArguments(pretrained_checkpoint_path=str(tmp_path))
    resolved = resolve_arguments(arguments, manifest(100, 2))
    assert (resolved.model_type, resolved.image_size) == ("resnet-18", 32)
    assert resolved.recipe == "from-scratch"
    other = RecipeTrainingArguments(
        pretrained_checkpoint_path=str(model), model_type="mobilenet-v2", image_size=64
    )
    resolved = resolve_arguments(other, manifest(100, 2))
    assert (resolved.model_type, resolved.image_size) == ("mobilenet-v2", 64)


def fitting(seconds: float, *, per_step: float, validation_batches: int = 0) -> int:
    arguments = RecipeTrainingArguments(recipe="frozen-backbone").resolved(FLOWERS)
    return steps_within(seconds, arguments, seconds_per_step=per_step, validation_batches=validation_batches)


def test_as_many_steps_as_fit_into_the_time():
    assert fitting(100, per_step=0.2) == 450
    assert fitting(100_000, per_step=0.2) == 1000
    assert fitting(0.1, per_step=0.2) == 1
    assert fitting(-5, per_step=0.2) == 1
    assert 1 <= fitting(100, per_step=0.2, validation_batches=30) < 450
    # Twenty evaluations of 10 steps each, unless there are fewer.
    assert fitting(10_000, per_step=10, validation_batches=30) > 200


def test_the_table_in_the_docs_has_the_schedules():
    page = TRAIN_PAGE.read_text(encoding="utf-8")
    for images, classes in (
        (50, 2),
        (245, 2),
        (1437, 10),
        (2569, 5),
        (5000, 81),
        (50_000, 100),
        (500_000, 1000),
    ):
        row = [f"{steps(name, images, classes):,}" for name in SCALED[:5]]
        assert f"| {images:,} | {classes:,} | {' | '.join(row)} |" in page
