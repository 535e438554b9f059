"""The ``hyperparameters`` block of AI Platform's config.yaml: search space, search settings and goal."""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.arguments import checked_value, nearest_name, parse_text
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader

# The only metric that the training reports to a tuner.
METRIC, GOAL = "top_1_accuracy", "MAXIMIZE"
TYPES = ("DOUBLE", "INTEGER", "CATEGORICAL", "DISCRETE")
SCALES = ("NONE", "UNIT_LINEAR_SCALE", "UNIT_LOG_SCALE", "UNIT_REVERSE_LOG_SCALE")
ALGORITHMS = ("ALGORITHM_UNSPECIFIED", "GRID_SEARCH", "RANDOM_SEARCH")
# The API's limit for a DISCRETE parameter.
_MAX_VALUES = 1000
_MAX_TRIALS = 10_000
# Combinations of extreme values that are checked against the training arguments.
_MAX_COMBINATIONS = 2000


@dataclass(frozen=True)
class TunedParameter:
    """A tuned training argument and its search space.

    Attributes:
        name: The argument's name, with underscores.
        type: DOUBLE, INTEGER, CATEGORICAL or DISCRETE.
        minimum: Smallest value of a DOUBLE or INTEGER.
        maximum: Largest value of a DOUBLE or INTEGER.
        values: The values of a CATEGORICAL (strings) or DISCRETE (numbers).
        scale: The scale of the range, one of ``SCALES``.
    """

    name: str
    type: str
    minimum: float = 0.0
    maximum: float = 0.0
    values: tuple[Any, ...] = ()
    scale: str = "NONE"


@dataclass(frozen=True)
class Hyperparameters:
    """A tuning request.

    Attributes:
        parameters: The tuned arguments; at least one.
        max_trials: Total number of trials.
        max_parallel_trials: Number of trials that run in parallel.
        max_failed_trials: Number of failures after which the search ends; 0 = the service's default.
        early_stopping: Whether unpromising trials are stopped.
        algorithm: GRID_SEARCH, RANDOM_SEARCH, or empty for Bayesian search.
        resume_job: An earlier job whose trials the search learns from; empty for none.
        block: The fields that it was read from: JSON values by name.
    """

    parameters: tuple[TunedParameter, ...]
    max_trials: int = 1
    max_parallel_trials: int = 1
    max_failed_trials: int = 0
    early_stopping: bool = False
    algorithm: str = ""
    resume_job: str = ""
    block: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)


def read_hyperparameters(block: FieldsReader) -> Hyperparameters:
    """Reads and checks the block.

    Raises:
        InvalidArgumentError: naming the field, its value and what is allowed.
    """
    goal = block.choice("goal", (GOAL, "MINIMIZE"), GOAL)
    metric = block.text("hyperparameterMetricTag", METRIC)
    if metric != METRIC:
        raise block.error("hyperparameterMetricTag", metric, METRIC, "the training reports top_1_accuracy")
    if goal != GOAL:
        raise block.error("goal", goal, GOAL, f"higher {METRIC} is better")
    max_trials = block.integer("maxTrials", 1, minimum=1, maximum=_MAX_TRIALS)
    parallel = block.integer("maxParallelTrials", 1, minimum=1, maximum=_MAX_TRIALS)
    if parallel > max_trials:
        raise block.error("maxParallelTrials", parallel, f"at most maxTrials ({max_trials})")
    failed = block.integer("maxFailedTrials", 0)
    if failed > max_trials:
        raise block.error("maxFailedTrials", failed, f"at most maxTrials ({max_trials})")
    algorithm = block.choice("algorithm", ALGORITHMS)
    parameters = tuple(_read_parameter(parameter) for parameter in block.blocks("params"))
    if not parameters:
        raise block.error("params", [], "a list of at least one parameter", "add the parameters to tune")
    names = [parameter.name for parameter in parameters]
    for name in names:
        if names.count(name) > 1:
            raise block.error("params", name, "listed once", "remove the duplicate")
    doubles = [parameter.name for parameter in parameters if parameter.type == "DOUBLE"]
    if algorithm == "GRID_SEARCH" and doubles:
        raise block.error(
            "algorithm",
            algorithm,
            f"another algorithm, because there is no grid of DOUBLE values ({', '.join(doubles)})",
            "use the type DISCRETE and list the values",
        )
    request = Hyperparameters(
        parameters=parameters,
        max_trials=max_trials,
        max_parallel_trials=parallel,
        max_failed_trials=failed,
        early_stopping=block.boolean("enableTrialEarlyStopping"),
        algorithm="" if algorithm == "ALGORITHM_UNSPECIFIED" else algorithm,
        resume_job=block.text("resumePreviousJobId"),
        block=block.fields,
    )
    block.finish()
    return request


# Arguments that are set by the trial or the dataset, or do not change the model, and why.
NOT_TUNED = {
    "job_dir": "each trial has its own folder",
    "keep_checkpoints": "it has no effect on the model",
    "num_classes": "the dataset's labels determine it",
    "multi_label": "the dataset's labels determine it",
}


def check_tuned_arguments(
    request: Hyperparameters, arguments_class: type[Any], fixed: Mapping[str, Any], *, where: str = ""
) -> None:
    """Rejects what the training would reject later, in a trial: unknown names and invalid values.

    The extreme values of all parameters are checked in combination, since each may be valid on its own.

    Args:
        request: What is tuned.
        arguments_class: The dataclass of the training arguments, which checks its values on construction.
        fixed: The arguments that are not tuned.
        where: The document, for errors.

    Raises:
        InvalidArgumentError: naming the parameter, the value and what is allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments_class)}

    def error(problem: str, remedy: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"params: {problem}", where=where, remedy=remedy)

    for parameter in request.parameters:
        name = parameter.name
        if name not in fields:
            raise error(f"there is no training argument {name!r}", nearest_name(name, fields))
        if name in NOT_TUNED:
            raise error(f"{name} cannot be tuned: {NOT_TUNED[name]}", "remove it")
        kind = type(fields[name].default)
        if kind is str and parameter.type != "CATEGORICAL":
            problem = f"{name} is a string, but its type is {parameter.type}"
            raise error(problem, "use CATEGORICAL with categoricalValues")
        if kind is int and parameter.type == "DOUBLE":
            problem = f"{name} is an integer, but its type is DOUBLE"
            raise error(problem, "use INTEGER, or DISCRETE with discreteValues")
        for value in parameter.values or (parameter.minimum, parameter.maximum):
            field = fields[name]
            try:
                if checked_value(field, typed_value(value, field)) == field.metadata["unset"]:
                    raise InvalidArgumentError(f"{name}={value:g} leaves it to the recipe")
            except InvalidArgumentError as found:
                raise error(found.problem, f"correct the search space of {name}") from None
    names = {parameter.name for parameter in request.parameters}
    others = {name: value for name, value in fixed.items() if name in fields and name not in names}
    for values in _corners(request.parameters):
        try:
            arguments_class(
                **others, **{name: typed_value(value, fields[name]) for name, value in values.items()}
            )
        except InvalidArgumentError as found:
            raise error(f"{_possible_values(values)}, but {found.problem}", found.remedy) from None


def reversed_value(value: float, minimum: float, maximum: float) -> float:
    """Returns a value mirrored in its range: log-uniform becomes dense near the maximum.

    The result is always in the range, despite rounding.
    """
    return min(max(minimum + (maximum - value), minimum), maximum)


def _possible_values(values: Mapping[str, Any]) -> str:
    text = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
    return f"a trial may have {text}"


def _corners(parameters: Sequence[TunedParameter]) -> Iterator[dict[str, Any]]:
    """Yields all combinations of the parameters' extreme values, or a random sample if there are too many."""
    axes = [parameter.values or (parameter.minimum, parameter.maximum) for parameter in parameters]
    names = [parameter.name for parameter in parameters]
    if math.prod(map(len, axes)) <= _MAX_COMBINATIONS:
        for values in itertools.product(*axes):
            yield dict(zip(names, values, strict=True))
        return
    draw = random.Random(0)  # noqa: S311 - not a secret
    for _ in range(_MAX_COMBINATIONS):
        yield {name: draw.choice(axis) for name, axis in zip(names, axes, strict=True)}


def typed_value(value: Any, field: "dataclasses.Field[Any]") -> Any:
    """Converts a tuned value to the type of a training argument; an invalid value is returned unchanged."""
    try:
        return parse_text(field, value) if isinstance(value, str) else value
    except InvalidArgumentError:
        return value


def _read_parameter(block: FieldsReader) -> TunedParameter:
    name = block.text("parameterName").replace("-", "_")
    if not name:
        raise block.error("parameterName", name, "the name of a training argument")
    kind = block.choice("type", TYPES)
    if not kind:
        raise block.error("type", kind, f"one of {', '.join(TYPES)}")
    scale = block.choice("scaleType", SCALES, "NONE")
    minimum, maximum = block.number("minValue"), block.number("maxValue")
    texts, numbers = block.texts("categoricalValues"), block.numbers("discreteValues")
    block.finish()
    ranged = kind in ("DOUBLE", "INTEGER")
    _check_belongs(block, kind, ranged=ranged)
    if kind == "CATEGORICAL":
        if len(set(texts)) != len(texts) or not texts:
            raise block.error("categoricalValues", list(texts), "at least one string, without duplicates")
        if scale != "NONE":
            raise block.error("scaleType", scale, "NONE for a CATEGORICAL", "remove scaleType")
        return TunedParameter(name, kind, values=texts)
    if kind == "DISCRETE":
        rising = all(first < second for first, second in itertools.pairwise(numbers))
        if not numbers or not rising or len(numbers) > _MAX_VALUES:
            raise block.error(
                "discreteValues",
                list(numbers)[:10],
                f"1 to {_MAX_VALUES:,} numbers in ascending order",
            )
        _check_scale(block, scale, numbers[0])
        return TunedParameter(name, kind, values=numbers, scale=scale)
    for field, value in (("minValue", minimum), ("maxValue", maximum)):
        if value is None:
            raise block.error(field, "", "given", f"give the range of {name} as minValue and maxValue")
        if kind == "INTEGER" and not value.is_integer():
            raise block.error(field, value, "an integer for type INTEGER", "round it, or use DOUBLE")
    assert minimum is not None and maximum is not None  # noqa: S101, PT018 - checked above
    if minimum >= maximum:
        if minimum == maximum:
            remedy = f"use a larger maxValue, or set {name} to {minimum:g} without tuning it"
        else:
            remedy = "swap them"
        raise InvalidArgumentError(
            f"{block.path}: {name}: the minimum {minimum:g} is not below the maximum {maximum:g}",
            where=block.where,
            remedy=remedy,
        )
    _check_scale(block, scale, minimum)
    return TunedParameter(name, kind, minimum, maximum, scale=scale)


def _check_belongs(block: FieldsReader, kind: str, *, ranged: bool) -> None:
    belongs = {
        "minValue": ranged,
        "maxValue": ranged,
        "categoricalValues": kind == "CATEGORICAL",
        "discreteValues": kind == "DISCRETE",
    }
    allowed = [field for field, belonging in belongs.items() if belonging]
    for field, belonging in belongs.items():
        if block.has(field) and not belonging:
            raise InvalidArgumentError(
                f"{block.path_of(field)} is not a field of type {kind}",
                where=block.where,
                remedy=f"a {kind} has {' and '.join(allowed)}",
            )


def _check_scale(block: FieldsReader, scale: str, minimum: float) -> None:
    if "LOG" in scale and minimum <= 0:
        raise block.error(
            "scaleType",
            scale,
            f"UNIT_LINEAR_SCALE for values from {minimum:g}",
            "use only values above 0, or UNIT_LINEAR_SCALE",
        )
