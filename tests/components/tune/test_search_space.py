import json

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.hyperparameters import NOT_TUNED, TunedParameter
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.search_space import (
    check_search_space,
    completed_trial,
    distributions_of,
    grid_points,
    grid_size,
    read_request,
    trial_arguments,
    values_of,
)
from tests.servers.configs import TUNING_CONFIG

TRAINING = TrainingArguments(model_type="resnet-18", weights="none", image_size=32, max_steps=100)
SCALES = ("NONE", "UNIT_LINEAR_SCALE", "UNIT_LOG_SCALE", "UNIT_REVERSE_LOG_SCALE")


def request_of(*parameters, **fields):
    block = {"maxTrials": 5, "params": list(parameters), **fields}
    return read_request(TuneArguments(hyperparameters=json.dumps(block)))


def double(name="initial_learning_rate", low=0.001, high=0.2, scale="UNIT_LOG_SCALE"):
    return {"parameterName": name, "type": "DOUBLE", "minValue": low, "maxValue": high, "scaleType": scale}


def sampled(request, number=4000):
    """Values sampled by random search, by parameter."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    distributions = distributions_of(request)
    drawn = [values_of(request, study.ask(distributions).params) for _ in range(number)]
    return {name: np.array([values[name] for values in drawn]) for name in distributions}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_original_config_is_read_unchanged():
    request = read_request(TuneArguments(hyperparameters=TUNING_CONFIG))
    assert (request.max_trials, request.max_parallel_trials, request.early_stopping) == (6, 3, True)
    assert request.parameters == (
        TunedParameter("initial_learning_rate", "DOUBLE", 0.001, 0.2, scale="UNIT_LOG_SCALE"),
    )
    as_json = json.dumps(yaml.safe_load(TUNING_CONFIG)["trainingInput"]["hyperparameters"])
    assert read_request(TuneArguments(hyperparameters=as_json)) == request


@pytest.mark.parametrize(
    ("tune", "parameter"),
    [
        (
            "initial_learning_rate=log:0.001:0.2",
            TunedParameter("initial_learning_rate", "DOUBLE", 0.001, 0.2, scale="UNIT_LOG_SCALE"),
        ),
        (
            "--label-smoothing=linear:0:0.5",
            TunedParameter("label_smoothing", "DOUBLE", 0.0, 0.5, scale="UNIT_LINEAR_SCALE"),
        ),
        (
            "ema = reverse-log:0.9:0.999",
            TunedParameter("ema", "DOUBLE", 0.9, 0.999, scale="UNIT_REVERSE_LOG_SCALE"),
        ),
        ("warmup_steps=0:50", TunedParameter("warmup_steps", "INTEGER", 0, 50)),
        ("train_batch_size=64,16,32", TunedParameter("train_batch_size", "DISCRETE", values=(16, 32, 64))),
        (
            "optimizer_type=adam,momentum",
            TunedParameter("optimizer_type", "CATEGORICAL", values=("adam", "momentum")),
        ),
        (
            "deterministic=true,false",
            TunedParameter("deterministic", "CATEGORICAL", values=("true", "false")),
        ),
    ],
)
def test_the_short_form_is_equivalent_to_a_block(tune, parameter):
    assert read_request(TuneArguments(tune=tune)).parameters == (parameter,)


def test_flags_override_the_block_and_the_short_form_is_added_to_it():
    arguments = TuneArguments(
        hyperparameters=TUNING_CONFIG,
        tune="weight_decay=log:1e-5:1e-3; train_batch_size=16,32",
        max_trials=9,
        max_parallel_trials=2,
        max_failed_trials=4,
        trial_early_stopping="off",
        search_algorithm="random",
        resume_previous_job_id="before",
    )
    request = read_request(arguments)
    assert [parameter.name for parameter in request.parameters] == [
        "initial_learning_rate",
        "weight_decay",
        "train_batch_size",
    ]
    assert (request.max_trials, request.max_parallel_trials, request.max_failed_trials) == (9, 2, 4)
    assert (request.early_stopping, request.algorithm) == (False, "RANDOM_SEARCH")
    assert request.resume_job == "before"


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("", "there is nothing to tune"),
        ("learning_rate=log:1:2", "no training argument 'learning_rate'"),
        ("initial_learning_rate", "has no values"),
        ("initial_learning_rate=logarithmic:1:2", "the unknown scale 'logarithmic'"),
        ("initial_learning_rate=log:0:0.1", "UNIT_LOG_SCALE"),
        ("ema=reverse-log:0:0.9", "UNIT_REVERSE_LOG_SCALE"),
        ("initial_learning_rate=log:0.2:0.001", "the minimum 0.2 is not below the maximum 0.001"),
        ("initial_learning_rate=log:0.2:0.001", "swap them"),
        ("initial_learning_rate=log:0.2:0.2", "set initial_learning_rate to 0.2 without tuning it"),
        ("initial_learning_rate=zzz:1:2", "valid names: linear, log, reverse-log"),
        ("train_batch_size=8,16,8", "remove the duplicate 8"),
        ("train_batch_size=16,many", "not a number"),
        ("warmup_steps=0.5:3", "an integer"),
        ("initial_learning_rate=log:0.1:0.2;initial_learning_rate=log:0.1:0.3", "listed once"),
    ],
)
def test_an_invalid_request_is_rejected_with_the_reason(tune, expected):
    with pytest.raises(InvalidArgumentError) as raised:
        read_request(TuneArguments(tune=tune))
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("label_smoothing=0:1", "params: label_smoothing=1.0: must be"),
        ("train_batch_size=8.5,16", "params: train_batch_size=8.5: must be a whole number"),
        ("model_type=resnet-18,resnet-19", "resnet-19"),
        ("job_dir=a,b", "each trial has its own folder"),
        # Each value is valid on its own.
        ("warmup_steps=10:90;max_steps=50:200", "a trial may have warmup_steps=90"),
        (
            "optimizer_type=adam,momentum;optimizer_arguments=beta1=0.9,momentum=0.8",
            "a trial may have optimizer_type=adam, optimizer_arguments=momentum=0.8",
        ),
    ],
)
def test_the_whole_space_is_checked_before_the_first_trial(tune, expected):
    with pytest.raises(InvalidArgumentError) as raised:
        check_search_space(read_request(TuneArguments(tune=tune)), TRAINING)
    assert expected in str(raised.value)


@pytest.mark.parametrize("name", ["job_dir", "keep_checkpoints", "num_classes", "multi_label"])
def test_an_argument_that_the_trial_or_the_dataset_determines_cannot_be_tuned(name):
    parameter = {"parameterName": name, "type": "CATEGORICAL", "categoricalValues": ["3", "4"]}
    with pytest.raises(InvalidArgumentError, match=f"{name} cannot be tuned: ") as raised:
        check_search_space(request_of(parameter), TRAINING)
    assert raised.value.remedy == "remove it"


def test_every_other_training_argument_can_be_tuned():
    from dataclasses import fields

    for field in fields(TrainingArguments):
        if field.name in NOT_TUNED:
            continue
        value = getattr(TRAINING, field.name)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        kind = "DISCRETE" if isinstance(value, int | float) and not isinstance(value, bool) else "CATEGORICAL"
        values = {"discreteValues": [value]} if kind == "DISCRETE" else {"categoricalValues": [text]}
        request = request_of({"parameterName": field.name, "type": kind, **values})
        check_search_space(request, TRAINING)
        [point] = grid_points(request)
        assert trial_arguments(TRAINING, values_of(request, point)) == TRAINING


# The value in the middle of each scale: half of the samples are below it.
MIDDLE = {
    "NONE": lambda low, high: (low + high) / 2,
    "UNIT_LINEAR_SCALE": lambda low, high: (low + high) / 2,
    "UNIT_LOG_SCALE": lambda low, high: (low * high) ** 0.5,
    "UNIT_REVERSE_LOG_SCALE": lambda low, high: low + high - (low * high) ** 0.5,
}


@pytest.mark.parametrize("scale", SCALES)
@settings(max_examples=8, deadline=None)
@given(low=st.floats(1e-6, 10), factor=st.floats(1.5, 1e5))
def test_half_of_the_samples_are_below_the_middle_of_each_scale(scale, low, factor):
    high = low * factor
    request = request_of(double("weight_decay", low, high, scale))
    values = sampled(request, 1500)["weight_decay"]
    assert low <= values.min() <= values.max() <= high
    share = (values < MIDDLE[scale](low, high)).mean()
    # Six standard deviations for 1,500 flips of a fair coin.
    assert abs(share - 0.5) < 6 * 0.5 / 1500**0.5


def test_the_reverse_log_scale_mirrors_the_log_scale():
    low, high = 0.001, 0.2
    log = sampled(request_of(double(scale="UNIT_LOG_SCALE")))["initial_learning_rate"]
    reverse = sampled(request_of(double(scale="UNIT_REVERSE_LOG_SCALE")))["initial_learning_rate"]
    assert np.allclose(np.sort(low + high - reverse), np.sort(log))


@pytest.mark.parametrize("scale", SCALES)
def test_integers_reach_both_ends_of_every_scale(scale):
    space = {"parameterName": "warmup_steps", "type": "INTEGER", "minValue": 1, "maxValue": 64}
    values = sampled(request_of({**space, "scaleType": scale}))["warmup_steps"]
    assert values.dtype.kind == "i"
    assert (values.min(), values.max()) == (1, 64)
    # Between 1/2 and 65 on a logarithmic scale the middle is 5.7.
    middle = {"UNIT_LOG_SCALE": 5.5, "UNIT_REVERSE_LOG_SCALE": 59.5}.get(scale, 32.5)
    assert 0.44 < (values < middle).mean() < 0.56


def test_discrete_and_categorical_values_are_equally_likely():
    request = request_of(
        {
            "parameterName": "train_batch_size",
            "type": "DISCRETE",
            "discreteValues": [8, 16, 128],
            "scaleType": "UNIT_LOG_SCALE",
        },
        {
            "parameterName": "optimizer_type",
            "type": "CATEGORICAL",
            "categoricalValues": ["adam", "momentum"],
        },
    )
    drawn = sampled(request)
    for name, values in (("train_batch_size", [8, 16, 128]), ("optimizer_type", ["adam", "momentum"])):
        found, counts = np.unique(drawn[name], return_counts=True)
        assert found.tolist() == values
        assert counts.min() > 0.85 * 4000 / len(values)


def test_the_grid_contains_each_combination_once():
    request = request_of(
        {"parameterName": "warmup_steps", "type": "INTEGER", "minValue": 1, "maxValue": 3},
        {"parameterName": "optimizer_type", "type": "CATEGORICAL", "categoricalValues": ["adam", "momentum"]},
        algorithm="GRID_SEARCH",
    )
    points = [tuple(values_of(request, point).items()) for point in grid_points(request)]
    assert len(points) == len(set(points)) == grid_size(request) == 6


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_values_convert_back_to_their_point(data):
    scale = data.draw(st.sampled_from(SCALES))
    kind = data.draw(st.sampled_from(["DOUBLE", "INTEGER", "DISCRETE"]))
    if kind == "DISCRETE":
        numbers = sorted(data.draw(st.sets(st.integers(1, 10**6), min_size=1, max_size=20)))
        space = {"parameterName": "max_steps", "type": kind, "discreteValues": numbers}
    else:
        low = data.draw(st.integers(1, 1000))
        high = low + data.draw(st.integers(1, 10**6))
        space = {"parameterName": "max_steps", "type": kind, "minValue": low, "maxValue": high}
    request = request_of({**space, "scaleType": scale})
    study = optuna.create_study()
    point = study.ask(distributions_of(request)).params
    values = values_of(request, point)
    assert completed_trial(request, values, 0.5).params["max_steps"] == pytest.approx(
        point["max_steps"], rel=1e-9
    )
