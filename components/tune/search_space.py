"""What is tuned: read from a ``hyperparameters`` block or from short words, checked whole, sampled.

The search runs in coordinates of its own (``optuna.distributions``), in which every scale is one that Optuna
has; ``values_of`` turns a point into the values of training arguments.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from imgpipe.components.common.arguments import flat_fields, nearest_name
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.common.hyperparameters import (
    Hyperparameters,
    TunedParameter,
    check_tuned_arguments,
    read_hyperparameters,
    reversed_value,
)
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import (
    AUTO,
    BAYESIAN,
    DEFAULT_TRIALS,
    GRID,
    ON,
    RANDOM,
    TuneArguments,
)

_SCALE_OF_WORD = {
    "none": "NONE",
    "linear": "UNIT_LINEAR_SCALE",
    "log": "UNIT_LOG_SCALE",
    "reverse-log": "UNIT_REVERSE_LOG_SCALE",
}
_ALGORITHM = {BAYESIAN: "", GRID: "GRID_SEARCH", RANDOM: "RANDOM_SEARCH"}


def read_request(arguments: TuneArguments) -> Hyperparameters:
    """Returns what the arguments ask for, the flags in the place of what the block says.

    Raises:
        InvalidArgumentError: naming the field or word that is wrong and what is allowed.
    """
    block = block_in(arguments.hyperparameters)
    parameters = [*block.get("params", ()), *_short_forms(arguments.tune)]
    if not parameters:
        raise InvalidArgumentError(
            "nothing is tuned",
            remedy="give tune, e.g. initial_learning_rate=log:0.001:0.2, or hyperparameters",
        )
    written = bool(arguments.hyperparameters.strip())
    ours: dict[str, Any] = {"maxTrials": DEFAULT_TRIALS, "enableTrialEarlyStopping": True}
    block = {**({} if written else ours), **block, "params": parameters}
    numbers = {
        "maxTrials": arguments.max_trials,
        "maxParallelTrials": arguments.max_parallel_trials,
        "maxFailedTrials": arguments.max_failed_trials,
    }
    block.update({name: value for name, value in numbers.items() if value})
    if arguments.trial_early_stopping != AUTO:
        block["enableTrialEarlyStopping"] = arguments.trial_early_stopping == ON
    if arguments.search_algorithm != AUTO:
        block["algorithm"] = _ALGORITHM[arguments.search_algorithm] or "ALGORITHM_UNSPECIFIED"
    if arguments.resume_previous_job_id:
        block["resumePreviousJobId"] = arguments.resume_previous_job_id
    return read_hyperparameters(FieldsReader(block, "hyperparameters", where=""))


def check_search_space(request: Hyperparameters, training: TrainingArguments) -> None:
    """Refuses a space that holds a point which the training would refuse.

    Raises:
        InvalidArgumentError: naming the parameter, or the combination of extreme values.
    """
    fixed = {name: getattr(training, name) for name in flat_fields([TrainingArguments])}
    check_tuned_arguments(request, TrainingArguments, fixed, where="hyperparameters")


def trial_arguments(
    training: TrainingArguments, values: Mapping[str, Any], *, job_dir: str = ""
) -> TrainingArguments:
    """Returns the arguments of a trial.

    Args:
        training: What all trials have in common.
        values: Of the tuned parameters; numbers and texts.
        job_dir: The trial's own.

    Raises:
        InvalidArgumentError: if the training refuses them.
    """
    fields = flat_fields([TrainingArguments])
    typed = {name: _typed(value, type(fields[name].default)) for name, value in values.items()}
    return dataclasses.replace(training, **typed, job_dir=job_dir)


def distribution_of(parameter: TunedParameter) -> optuna.distributions.BaseDistribution:
    """Returns the coordinate in which a parameter is searched.

    UNIT_LOG_SCALE is Optuna's own. UNIT_REVERSE_LOG_SCALE, dense towards the maximum, has no counterpart
    there: the coordinate u is log-uniform and the value is minimum + maximum - u. A DISCRETE value is
    searched by its place in the list, so that the search knows the order; all values are equally likely. A
    range without a scale is searched linearly.
    """
    if parameter.type == "CATEGORICAL":
        return optuna.distributions.CategoricalDistribution(parameter.values)
    if parameter.type == "DISCRETE":
        return optuna.distributions.IntDistribution(0, len(parameter.values) - 1)
    log = "LOG" in parameter.scale
    if parameter.type == "INTEGER":
        return optuna.distributions.IntDistribution(int(parameter.minimum), int(parameter.maximum), log=log)
    return optuna.distributions.FloatDistribution(parameter.minimum, parameter.maximum, log=log)


def distributions_of(request: Hyperparameters) -> dict[str, optuna.distributions.BaseDistribution]:
    """Returns the coordinates of a search space by parameter."""
    return {parameter.name: distribution_of(parameter) for parameter in request.parameters}


def values_of(request: Hyperparameters, point: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of training arguments at a point of the search; the inverse of ``point_of``."""
    return {parameter.name: _value(parameter, point[parameter.name]) for parameter in request.parameters}


def completed_trial(
    request: Hyperparameters,
    values: Mapping[str, Any],
    objective: float,
    user_attrs: Mapping[str, Any] | None = None,
) -> optuna.trial.FrozenTrial:
    """Returns a trial with these values, for a study.

    Raises:
        ValueError: if a value is not in the search space.
        KeyError: if a parameter has no value.
    """
    point: dict[str, Any] = {}
    for parameter in request.parameters:
        value = values[parameter.name]
        if parameter.type == "DISCRETE":
            value = parameter.values.index(float(value))
        elif parameter.scale == "UNIT_REVERSE_LOG_SCALE":
            value = _reversed(parameter, value)
        point[parameter.name] = value
    return optuna.trial.create_trial(
        value=objective,
        params=point,
        distributions=distributions_of(request),
        user_attrs=dict(user_attrs or {}),
    )


def grid_points(request: Hyperparameters) -> Iterator[dict[str, Any]]:
    """Yields every point of a space without DOUBLE parameters, the last parameter changing fastest."""
    axes = []
    for parameter in request.parameters:
        if parameter.type == "CATEGORICAL":
            axes.append(list(parameter.values))
        elif parameter.type == "DISCRETE":
            axes.append(list(range(len(parameter.values))))
        else:
            axes.append(range(int(parameter.minimum), int(parameter.maximum) + 1))  # type: ignore[arg-type]
    names = [parameter.name for parameter in request.parameters]
    for point in itertools.product(*axes):
        yield dict(zip(names, point, strict=True))


def grid_size(request: Hyperparameters) -> int:
    """Returns how many points the grid has."""
    return math.prod(
        len(parameter.values) or int(parameter.maximum) - int(parameter.minimum) + 1
        for parameter in request.parameters
    )


def identity_of(request: Hyperparameters) -> dict[str, Any]:
    """Returns what a search must have in common with the one that goes on: JSON values by name."""
    spaces = {
        parameter.name: [
            parameter.type,
            parameter.minimum,
            parameter.maximum,
            list(parameter.values),
            parameter.scale,
        ]
        for parameter in request.parameters
    }
    return {"params": spaces, "goal": request.goal, "metric": request.metric}


def _value(parameter: TunedParameter, coordinate: Any) -> Any:
    if parameter.type == "DISCRETE":
        return parameter.values[coordinate]
    if parameter.scale == "UNIT_REVERSE_LOG_SCALE":
        return _reversed(parameter, coordinate)
    return coordinate


def _reversed(parameter: TunedParameter, number: Any) -> Any:
    value = reversed_value(float(number), parameter.minimum, parameter.maximum)
    return int(value) if parameter.type == "INTEGER" else value


def _typed(value: Any, kind: type) -> Any:
    """Returns a value as the training's arguments take it; what cannot be one is refused there."""
    if kind is bool and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    if kind in (int, float) and isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            return value
    return value


def block_in(text: str, *, where: str = "hyperparameters") -> dict[str, Any]:
    """Returns the fields of the block hyperparameters; they are not checked, as flags may go before them.

    Args:
        text: The block, or a whole config.yaml.
        where: The file, for errors.

    Raises:
        InvalidArgumentError: if it is not YAML, or holds no such block.
    """
    if not text.strip():
        return {}
    block = parse_yaml(text, where=where)
    if isinstance(block, Mapping) and isinstance(block.get("trainingInput"), Mapping):
        block = block["trainingInput"]
        if "hyperparameters" not in block:
            raise InvalidArgumentError(
                "trainingInput has no block hyperparameters: it says nothing of a tuning",
                where=where,
                remedy="add the block, with goal, maxTrials and params; or name another file",
            )
    if isinstance(block, Mapping) and "hyperparameters" in block:
        block = block["hyperparameters"]
    FieldsReader(block, "hyperparameters", where=where)
    if not isinstance(block.get("params", []), list):
        raise InvalidArgumentError(
            f"hyperparameters.params={block['params']!r}: must be a list",
            where=where,
            remedy="write each parameter as `- parameterName: ...`",
        )
    return dict(block)


def _short_forms(text: str) -> list[dict[str, Any]]:
    return [_short_form(word) for word in filter(None, (part.strip() for part in text.split(";")))]


def _short_form(word: str) -> dict[str, Any]:
    """Returns ``name=log:0.001:0.2`` or ``name=16,32,64`` as a block's parameter."""
    name, equals, space = word.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    fields = flat_fields([TrainingArguments])
    if not equals or not space.strip():
        raise _error(word, "has no values")
    if name not in fields:
        raise InvalidArgumentError(
            f"tune: there is no training argument {name!r}", remedy=nearest_name(name, fields)
        )
    kind = type(fields[name].default)
    parts = [part.strip() for part in space.split(":")]
    scale = _SCALE_OF_WORD.get(parts[0].lower()) if len(parts) == 3 else "NONE"
    if kind in (int, float) and len(parts) in (2, 3):
        if scale is None:
            raise InvalidArgumentError(
                f"tune: {word!r} has the scale {parts[0]!r}", remedy=nearest_name(parts[0], _SCALE_OF_WORD)
            )
        try:
            minimum, maximum = (float(part) for part in parts[-2:])
        except ValueError:
            raise _error(word, "has a limit that is no number") from None
        type_name = "INTEGER" if kind is int else "DOUBLE"
        return {
            "parameterName": name,
            "type": type_name,
            "minValue": minimum,
            "maxValue": maximum,
            "scaleType": scale,
        }
    words = [part.strip() for part in space.split(",")]
    if kind not in (int, float):
        return {"parameterName": name, "type": "CATEGORICAL", "categoricalValues": words}
    try:
        numbers = sorted(float(part) for part in words)
    except ValueError:
        raise _error(word, "has a value that is no number") from None
    if len(set(numbers)) < len(numbers):
        raise _error(word, "has a value twice")
    return {"parameterName": name, "type": "DISCRETE", "discreteValues": numbers}


def _error(word: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"tune: {word!r} {problem}",
        remedy="write name=log:0.001:0.2 (or linear, reverse-log) for a range, name=16,32,64 for values",
    )
