import math

import numpy as np
import pytest

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.schedules import WarmupThenCosine, build_optimizer


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),
        (5, 0.1 + 0.9 * 0.5),
        (9, 0.1 + 0.9 * 0.9),
        (10, 1.0),
        (35, 0.5 * (1 + math.cos(math.pi / 4))),
        (60, 0.5),
        (110, 0.0),
        (1000, 0.0),
    ],
)
def test_the_rate_rises_in_a_line_then_falls_along_a_cosine_to_zero(step, rate):
    schedule = WarmupThenCosine(1.0, 0.1, warmup_steps=10, decay_steps=110)
    assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_without_warm_up_the_first_step_has_the_full_rate():
    schedule = WarmupThenCosine(0.3, 0.1, warmup_steps=0, decay_steps=4)
    rates = [float(schedule(step)) for step in range(5)]
    assert rates == pytest.approx([0.3, 0.3 * (1 + math.sqrt(0.5)) / 2, 0.15, 0.0439340, 0.0], abs=1e-6)


def test_a_rate_below_the_warm_up_rate_is_reached_from_above():
    schedule = WarmupThenCosine(1e-5, 1e-4, warmup_steps=2, decay_steps=10)
    assert [float(schedule(step)) for step in (0, 1, 2)] == pytest.approx([1e-4, 5.5e-5, 1e-5])


def test_the_schedule_can_be_made_again_from_its_configuration():
    schedule = WarmupThenCosine(1.0, 0.1, 10, 110)
    again = WarmupThenCosine.from_config(schedule.get_config())
    assert float(again(7)) == float(schedule(7))


@pytest.mark.parametrize(
    ("optimizer_type", "text", "expected"),
    [
        ("momentum", "momentum=0.8,use_nesterov=true", {"momentum": 0.8, "nesterov": True}),
        ("adam", "beta1=0.7,beta2=0.8,epsilon=0.1", {"beta_1": 0.7, "beta_2": 0.8, "epsilon": 0.1}),
        ("rmsprop", "decay=0.7,momentum=0.6,epsilon=0.1", {"rho": 0.7, "momentum": 0.6, "epsilon": 0.1}),
    ],
)
def test_the_settings_reach_the_optimizer(optimizer_type, text, expected):
    optimizer = build_optimizer(
        TrainingArguments(optimizer_type=optimizer_type, optimizer_arguments=text, initial_learning_rate=0.25)
    )
    config = optimizer.get_config()
    assert {name: config[name] for name in expected} == expected
    assert float(optimizer.learning_rate) == 0.25
    # Weight decay is in the loss; decoupled decay in the optimizer would count it twice.
    assert not config["weight_decay"]


def test_momentum_steps_are_those_of_the_formula():
    arguments = TrainingArguments(
        max_steps=4, initial_learning_rate=0.5, optimizer_arguments="momentum=0.9,use_nesterov=true"
    )
    variable = keras.Variable(np.array([1.0], np.float32))
    optimizer = build_optimizer(arguments)
    expected, velocity = 1.0, 0.0
    for step in range(3):
        optimizer.apply([tf.constant([2.0])], [variable])
        rate = 0.25 * (1 + math.cos(math.pi * step / 4))
        velocity = 0.9 * velocity - rate * 2.0
        expected += 0.9 * velocity - rate * 2.0
    assert variable.numpy()[0] == pytest.approx(expected, rel=1e-5)
