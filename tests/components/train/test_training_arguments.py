import pytest

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES, SMALLEST_IMAGE_SIZE
from imgpipe.components.train.optimizer_settings import optimizer_settings
from imgpipe.components.train.recipes import ORIGINAL


def stepwise(steps, levels):
    return {
        "learning_rate_decay_type": "stepwise",
        "stepwise_learning_rate_steps": steps,
        "stepwise_learning_rate_levels": levels,
    }


def error_message(**values):
    with pytest.raises(InvalidArgumentError) as caught:
        TrainingArguments(**values)
    return str(caught.value)


def test_the_defaults_are_those_of_the_original_algorithm():
    arguments = TrainingArguments()
    assert arguments.recipe == ORIGINAL
    assert (arguments.model_type, arguments.weights, arguments.freeze) == (
        "efficientnet-b0",
        "imagenet",
        "none",
    )
    assert (arguments.max_steps, arguments.warmup_steps) == (1000, 0)
    assert arguments.train_batch_size == 32
    assert arguments.warmup_learning_rate == 1e-4
    assert arguments.initial_learning_rate == 1e-4
    assert arguments.optimizer_type == "momentum"
    assert arguments.label_smoothing == 0.1
    assert arguments.weight_decay == 1e-4
    assert arguments.num_eval_images == 0
    assert arguments.resolved_image_size() == 224


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_steps", 0, "at least 1"),
        ("max_steps", 1.5, "a whole number"),
        ("train_batch_size", 0, "at least 1"),
        ("num_classes", -1, "at least 0"),
        ("num_eval_images", -1, "at least 0"),
        ("model_type", "resnet-19", "resnet-18"),
        ("image_size", -1, "at least 0 and at most 2048"),
        ("image_size", 4096, "at least 0 and at most 2048"),
        ("weights", "imagnet", "imagenet or none (did you mean imagenet?)"),
        ("freeze", "head", "none, backbone"),
        ("initial_learning_rate", 0, "greater than 0"),
        ("initial_learning_rate", float("inf"), "must be a finite number"),
        ("warmup_steps", -2, "at least 0, or -1"),
        ("warmup_learning_rate", -1e-9, "at least 0"),
        ("optimizer_type", "sgd", "momentum, adam or rmsprop"),
        ("label_smoothing", 1.0, "at least 0 and less than 1"),
        ("label_smoothing", -0.1, "at least 0 and less than 1"),
        ("weight_decay", float("nan"), "must be a finite number"),
        ("weight_decay", -1e-9, "at least 0"),
        ("train_steps_per_eval", -1, "at least 0"),
        ("eval_batch_size", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("seed", 2**31, "at most 2147483647"),
    ],
)
def test_a_value_out_of_bounds_is_rejected_with_its_name_and_the_allowed_values(name, value, allowed):
    message = error_message(**{name: value})
    assert f"{name}={value!r}" in message
    assert allowed in message


def test_every_model_type_accepts_the_smallest_and_its_default_image_size():
    for name, kind in MODEL_TYPES.items():
        arguments = TrainingArguments(model_type=name, weights="none", image_size=SMALLEST_IMAGE_SIZE)
        assert arguments.resolved_image_size() == SMALLEST_IMAGE_SIZE
        assert TrainingArguments(model_type=name, weights="none").resolved_image_size() == kind.image_size


@pytest.mark.parametrize(
    ("optimizer_type", "text", "settings"),
    [
        ("momentum", "", {"momentum": 0.9, "use_nesterov": False}),
        ("momentum", "momentum=0.8", {"momentum": 0.8, "use_nesterov": False}),
        ("momentum", " use_nesterov = TRUE , momentum=0,", {"momentum": 0.0, "use_nesterov": True}),
        ("momentum", "use_nesterov=0", {"momentum": 0.9, "use_nesterov": False}),
        ("adam", "beta1=0.5,epsilon=1", {"beta1": 0.5, "beta2": 0.999, "epsilon": 1.0}),
        ("rmsprop", "decay=0.95,momentum=.5", {"decay": 0.95, "momentum": 0.5, "epsilon": 1e-7}),
    ],
)
def test_optimizer_arguments_override_the_optimizers_defaults(optimizer_type, text, settings):
    assert optimizer_settings(optimizer_type, text) == settings


@pytest.mark.parametrize(
    ("optimizer_type", "text", "message_parts"),
    [
        ("momentum", "momentun=0.9", ["momentum has no setting 'momentun'", "did you mean momentum?"]),
        ("momentum", "beta1=0.9", ["optimizer_type=momentum has no setting 'beta1'", "use_nesterov"]),
        ("adam", "beta_1=0.9", ["'beta_1'", "did you mean beta1"]),
        ("momentum", "momentum", ["momentum=''", "from 0 to below 1"]),
        ("momentum", "momentum=fast", ["momentum='fast'", "from 0 to below 1"]),
        ("momentum", "momentum=1", ["momentum='1'", "from 0 to below 1"]),
        ("momentum", "momentum=-0.1", ["momentum='-0.1'"]),
        ("rmsprop", "decay=nan", ["decay='nan'", "from 0 to below 1"]),
        ("adam", "epsilon=0", ["epsilon='0'", "greater than 0"]),
        ("adam", "epsilon=inf", ["epsilon='inf'", "greater than 0"]),
        ("momentum", "use_nesterov=yes", ["use_nesterov='yes'", "true or false"]),
        ("momentum", "momentum=0.9,momentum=0.5", ["momentum is given twice"]),
    ],
)
def test_invalid_optimizer_arguments_are_rejected_with_the_whole_text(optimizer_type, text, message_parts):
    message = error_message(optimizer_type=optimizer_type, optimizer_arguments=text)
    for part in [*message_parts, f"optimizer_arguments={text!r}"]:
        assert part in message


@pytest.mark.parametrize(
    ("max_steps", "given", "resolved"), [(1000, 0, 50), (100, 0, 25), (10, 0, 10), (1000, 7, 7), (5, 7, 5)]
)
def test_steps_between_evaluations_are_a_twentieth_of_the_run_but_at_least_25(max_steps, given, resolved):
    arguments = TrainingArguments(max_steps=max_steps, train_steps_per_eval=given)
    assert arguments.resolved_steps_per_eval() == resolved


def test_evaluations_use_the_training_batch_size_by_default():
    assert TrainingArguments(train_batch_size=7).resolved_eval_batch_size() == 7
    assert TrainingArguments(train_batch_size=7, eval_batch_size=9).resolved_eval_batch_size() == 9


@pytest.mark.parametrize(
    ("values", "message_parts"),
    [
        ({"warmup_steps": 10, "max_steps": 10}, ["warmup_steps=10", "max_steps=10", "lower warmup_steps"]),
        (
            {"model_type": "resnet-18", "weights": "imagenet"},
            ["weights=imagenet", "model_type=resnet-18", "set weights to none", "mobilenet-v2"],
        ),
        ({"model_type": "mobilenet-v2", "image_size": 31}, ["image_size=31", "mobilenet-v2", "at least 32"]),
        (
            {"stepwise_learning_rate_steps": "100"},
            ["stepwise_learning_rate_steps requires learning_rate_decay_type=stepwise", "it is cosine"],
        ),
        ({"learning_rate_decay_type": "stepwise"}, ["0 stepwise_learning_rate_steps and 0"]),
        (stepwise("100,200", "0.1"), ["2 stepwise_learning_rate_steps and 1", "of equal length"]),
        (stepwise("100,100", "0.1,0.2"), ["'100,100' is not a list of increasing", "e.g. 100,200"]),
        (stepwise("0,100", "0.1,0.2"), ["'0,100' is not a list of increasing"]),
        (stepwise("a", "0.1"), ["stepwise_learning_rate_steps='a' is not a list of integers"]),
        (stepwise("1.5", "0.1"), ["stepwise_learning_rate_steps='1.5'"]),
        (stepwise("1", "0.1;0.2"), ["stepwise_learning_rate_levels='0.1;0.2' is not a list of numbers"]),
        (stepwise("1", "-0.1"), ["stepwise_learning_rate_levels='-0.1' contains a negative"]),
        (stepwise("1", "nan"), ["stepwise_learning_rate_levels='nan'"]),
        (
            {**stepwise("1", "0.1"), "decay_steps": 5},
            ["decay_steps requires learning_rate_decay_type=cosine", "it is stepwise"],
        ),
        ({"warmup_steps": 10, "decay_steps": 10}, ["decay_steps=10 is not more than warmup_steps=10"]),
        ({"freeze": "stage8"}, ["freeze='stage8' is not a part of model_type=efficientnet-b0", "stage7"]),
        ({"freeze": "backbone", "weights": "none"}, ["freeze=backbone with weights=none", "to imagenet"]),
        ({"freeze": "stage1", "weights": "none"}, ["freeze=stage1 with weights=none"]),
        ({"job_dir": "az://bucket"}, ["az://bucket"]),
    ],
)
def test_incompatible_arguments_are_rejected_with_a_remedy(values, message_parts):
    message = error_message(**values)
    for part in message_parts:
        assert part in message


def test_each_stepwise_level_has_its_first_step():
    arguments = TrainingArguments(**stepwise(" 100, 200 ", "0.01,1e-3"))
    assert arguments.stepwise_learning_rates() == ((100, 0.01), (200, 0.001))
    assert TrainingArguments().stepwise_learning_rates() == ()


def test_custom_weights_can_be_used_without_imagenet_weights():
    TrainingArguments(model_type="resnet-18", pretrained_checkpoint_path="model", freeze="stage4")
