import math

import numpy as np
import pytest

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.schedules import Schedule, build_optimizer


def schedule(initial, warmup, warmup_steps, decay_steps, **values):
    arguments = TrainingArguments(
        initial_learning_rate=initial,
        warmup_learning_rate=warmup,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        **values,
    )
    return Schedule(arguments)


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
def test_the_rate_rises_linearly_then_falls_along_a_cosine_to_0(step, rate):
    assert float(schedule(1.0, 0.1, 10, 110)(step)) == pytest.approx(rate, abs=1e-6)


def test_without_warm_up_the_first_step_has_the_full_rate():
    without_warmup = schedule(0.3, 0.1, 0, 0, max_steps=4)
    rates = [float(without_warmup(step)) for step in range(5)]
    assert rates == pytest.approx([0.3, 0.3 * (1 + math.sqrt(0.5)) / 2, 0.15, 0.0439340, 0.0], abs=1e-6)


def test_the_warm_up_may_start_above_the_initial_rate():
    descending = schedule(1e-5, 1e-4, 2, 10)
    assert [float(descending(step)) for step in (0, 1, 2)] == pytest.approx([1e-4, 5.5e-5, 1e-5])


def test_the_stepwise_decay_keeps_the_initial_rate_until_the_first_step():
    stepwise = Schedule(
        TrainingArguments(
            initial_learning_rate=1.0,
            warmup_learning_rate=0.5,
            warmup_steps=1,
            learning_rate_decay_type="stepwise",
            stepwise_learning_rate_steps="3,5",
            stepwise_learning_rate_levels="0.25,0.125",
        )
    )
    assert [float(stepwise(step)) for step in range(7)] == [0.5, 1, 1, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("optimizer_type", "text", "expected"),
    [
        ("momentum", "momentum=0.8,use_nesterov=true", {"momentum": 0.8, "nesterov": True}),
        ("adam", "beta1=0.7,beta2=0.8,epsilon=0.1", {"beta_1": 0.7, "beta_2": 0.8, "epsilon": 0.1}),
        ("rmsprop", "decay=0.7,momentum=0.6,epsilon=0.1", {"rho": 0.7, "momentum": 0.6, "epsilon": 0.1}),
    ],
)
def test_the_settings_are_passed_to_the_optimizer(optimizer_type, text, expected):
    optimizer = build_optimizer(
        TrainingArguments(optimizer_type=optimizer_type, optimizer_arguments=text, initial_learning_rate=0.25)
    )
    assert {name: getattr(optimizer, name) for name in expected} == expected
    assert float(optimizer.learning_rate) == 0.25
    # Weight decay is in the loss; the optimizer would apply it a second time.
    assert not optimizer.weight_decay


def test_momentum_steps_follow_the_formula():
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


@pytest.mark.parametrize("optimizer_type", ["momentum", "adam"])
def test_a_variable_with_a_factor_has_that_part_of_the_learning_rate(optimizer_type):
    arguments = TrainingArguments(max_steps=4, initial_learning_rate=0.5, optimizer_type=optimizer_type)
    slow, fast = (keras.Variable(np.array([1.0], np.float32)) for _ in range(2))
    optimizer = build_optimizer(arguments, rate_factors=[(slow, 0.125)])
    for _ in range(3):
        optimizer.apply([tf.constant([2.0])] * 2, [slow, fast])
    assert 1 - slow.numpy()[0] == pytest.approx((1 - fast.numpy()[0]) / 8, rel=1e-4)
