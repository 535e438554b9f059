"""The ``hyperparameters`` block of AI Platform's config.yaml: what is tuned, how, and towards which goal."""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.arguments import nearest_name
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader

# The one metric that the training reports to a tuner.
METRIC = "top_1_accuracy"
TYPES = ("DOUBLE", "INTEGER", "CATEGORICAL", "DISCRETE")
SCALES = ("NONE", "UNIT_LINEAR_SCALE", "UNIT_LOG_SCALE", "UNIT_REVERSE_LOG_SCALE")
ALGORITHMS = ("ALGORITHM_UNSPECIFIED", "GRID_SEARCH", "RANDOM_SEARCH")
# Of the API, for a DISCRETE parameter.
_MOST_VALUES = 1000
# Of extreme values, that are tried on the training's arguments.
_MOST_COMBINATIONS = 2000


@dataclass(frozen=True)
class TunedParameter:
    """One argument of the training and the values that are tried.

    Attributes:
        name: Of the argument, with underscores.
        type: DOUBLE, INTEGER, CATEGORICAL or DISCRETE.
        minimum: Smallest value of a DOUBLE or INTEGER.
        maximum: Largest value of a DOUBLE or INTEGER.
        values: Of a CATEGORICAL (texts) or DISCRETE (numbers).
        scale: How the range is searched: one of ``SCALES``.
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
        parameters: What is tuned; at least one.
        goal: MAXIMIZE.
        metric: ``top_1_accuracy``.
        max_trials: Trials in all.
        max_parallel_trials: Trials at a time.
        max_failed_trials: After this many failures the search ends; 0 = the service decides.
        early_stopping: Whether trials without prospects are stopped.
        algorithm: GRID_SEARCH, RANDOM_SEARCH, or empty for Bayesian search.
        resume_job: The job whose trials the search should know; empty for none.
    """

    parameters: tuple[TunedParameter, ...]
    goal: str = "MAXIMIZE"
    metric: str = METRIC
    max_trials: int = 1
    max_parallel_trials: int = 1
    max_failed_trials: int = 0
    early_stopping: bool = False
    algorithm: str = ""
    resume_job: str = ""


def read_hyperparameters(block: FieldsReader) -> Hyperparameters:
    """Reads and checks the block.

    Raises:
        InvalidArgumentError: naming the field, its value and what is allowed.
    """
    goal = block.choice("goal", ("MAXIMIZE", "MINIMIZE"), "MAXIMIZE")
    metric = block.text("hyperparameterMetricTag", METRIC)
    if metric != METRIC:
        raise block.error("hyperparameterMetricTag", metric, METRIC, "the training reports top_1_accuracy")
    if goal != "MAXIMIZE":
        raise block.error("goal", goal, "MAXIMIZE", f"{METRIC} is better the higher it is")
    max_trials = block.integer("maxTrials", 1, minimum=1)
    parallel = block.integer("maxParallelTrials", 1, minimum=1)
    if parallel > max_trials:
        raise block.error("maxParallelTrials", parallel, f"at most maxTrials ({max_trials})")
    failed = block.integer("maxFailedTrials", 0)
    if failed > max_trials:
        raise block.error("maxFailedTrials", failed, f"at most maxTrials ({max_trials})")
    algorithm = block.choice("algorithm", ALGORITHMS)
    parameters = tuple(_read_parameter(one) for one in block.blocks("params"))
    if not parameters:
        raise block.error("params", [], "a list of at least one parameter", "name what is to be tuned")
    names = [parameter.name for parameter in parameters]
    for name in names:
        if names.count(name) > 1:
            raise block.error("params", name, "named once each", "keep one of the two")
    doubles = [one.name for one in parameters if one.type == "DOUBLE"]
    if algorithm == "GRID_SEARCH" and doubles:
        raise block.error(
            "algorithm",
            algorithm,
            f"another one, since {', '.join(doubles)} has the type DOUBLE, of which there is no grid",
            f"make {', '.join(doubles)} DISCRETE and list the values",
        )
    request = Hyperparameters(
        parameters=parameters,
        goal=goal,
        metric=metric,
        max_trials=max_trials,
        max_parallel_trials=parallel,
        max_failed_trials=failed,
        early_stopping=block.boolean("enableTrialEarlyStopping"),
        algorithm="" if algorithm == "ALGORITHM_UNSPECIFIED" else algorithm,
        resume_job=block.text("resumePreviousJobId"),
    )
    block.finish()
    return request


def block_of(request: Hyperparameters) -> dict[str, Any]:
    """Returns the block that ``read_hyperparameters`` reads as this request: JSON values by name."""
    block: dict[str, Any] = {
        "goal": request.goal,
        "hyperparameterMetricTag": request.metric,
        "maxTrials": request.max_trials,
        "maxParallelTrials": request.max_parallel_trials,
        "enableTrialEarlyStopping": request.early_stopping,
        "params": [_block_of_parameter(parameter) for parameter in request.parameters],
    }
    others = {
        "maxFailedTrials": request.max_failed_trials,
        "algorithm": request.algorithm,
        "resumePreviousJobId": request.resume_job,
    }
    return {**block, **{name: value for name, value in others.items() if value}}


def _block_of_parameter(parameter: TunedParameter) -> dict[str, Any]:
    block: dict[str, Any] = {"parameterName": parameter.name, "type": parameter.type}
    if parameter.scale != "NONE":
        block["scaleType"] = parameter.scale
    if parameter.type == "CATEGORICAL":
        return {**block, "categoricalValues": list(parameter.values)}
    if parameter.type == "DISCRETE":
        return {**block, "discreteValues": list(parameter.values)}
    return {**block, "minValue": parameter.minimum, "maxValue": parameter.maximum}


# What a trial, or the data, decides by itself, or what would make trials differ in nothing that matters.
NOT_TUNED = {
    "job_dir": "every trial has a folder of its own",
    "keep_checkpoints": "it has no effect on the model",
    "num_classes": "the data set's labels decide it",
    "multi_label": "the data set's labels decide it",
}


def check_tuned_arguments(
    request: Hyperparameters, arguments_class: type[Any], fixed: Mapping[str, Any], *, where: str = ""
) -> None:
    """Refuses what the training would refuse later, in a trial: unknown names, values out of bounds.

    The extreme values of all parameters are tried together: each may be allowed alone.

    Args:
        request: What is tuned.
        arguments_class: The dataclass of the training's arguments, which checks its values itself.
        fixed: The arguments that are not tuned.
        where: The document, for errors.

    Raises:
        InvalidArgumentError: naming the parameter, the value and what is allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments_class)}
    for parameter in request.parameters:
        if parameter.name not in fields:
            raise InvalidArgumentError(
                f"params: there is no training argument {parameter.name!r}",
                where=where,
                remedy=nearest_name(parameter.name, fields),
            )
        if parameter.name in NOT_TUNED:
            raise InvalidArgumentError(
                f"params: {parameter.name} cannot be tuned: {NOT_TUNED[parameter.name]}",
                where=where,
                remedy="leave it out",
            )
        kind = type(fields[parameter.name].default)
        if kind is str and parameter.type != "CATEGORICAL":
            raise InvalidArgumentError(
                f"params: {parameter.name} is a text, but its type is {parameter.type}",
                where=where,
                remedy="use CATEGORICAL with categoricalValues",
            )
        if kind is int and parameter.type == "DOUBLE":
            raise InvalidArgumentError(
                f"params: {parameter.name} is a whole number, but its type is DOUBLE",
                where=where,
                remedy="use INTEGER, or DISCRETE with discreteValues",
            )
    names = {parameter.name for parameter in request.parameters}
    others = {name: value for name, value in fixed.items() if name in fields and name not in names}
    for values in _corners(request.parameters):
        try:
            arguments_class(
                **others, **{name: _of_type(value, fields[name]) for name, value in values.items()}
            )
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"params: {_said(values)}, but {error.problem}",
                where=where,
                remedy=error.remedy,
            ) from None


def reversed_value(value: float, minimum: float, maximum: float) -> float:
    """Returns a value as far from the other end of its range: log-uniform becomes dense at the maximum.

    Rounding does not lead out of the range.
    """
    return min(max(minimum + (maximum - value), minimum), maximum)


def _said(values: Mapping[str, Any]) -> str:
    words = [(name, f"{value:g}" if isinstance(value, float) else value) for name, value in values.items()]
    if len(words) == 1:
        return f"{words[0][0]} may become {words[0][1]}"
    return f"a trial may have {', '.join(f'{name}={value}' for name, value in words)}"


def _corners(parameters: Sequence[TunedParameter]) -> Iterator[dict[str, Any]]:
    """Yields the combinations of the parameters' extreme values; many at random where there are too many."""
    axes = [parameter.values or (parameter.minimum, parameter.maximum) for parameter in parameters]
    names = [parameter.name for parameter in parameters]
    if math.prod(map(len, axes)) <= _MOST_COMBINATIONS:
        for values in itertools.product(*axes):
            yield dict(zip(names, values, strict=True))
        return
    draw = random.Random(0)  # noqa: S311 - no secret
    for _ in range(_MOST_COMBINATIONS):
        yield {name: draw.choice(axis) for name, axis in zip(names, axes, strict=True)}


def _of_type(value: Any, field: "dataclasses.Field[Any]") -> Any:
    """Returns a value as the trial's command line would give it."""
    kind: Any = type(field.default)
    if kind is bool:
        return {"true": True, "false": False}.get(str(value).lower(), value)
    if isinstance(value, str) and kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            return value
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
            raise block.error("categoricalValues", list(texts), "at least one text, none of them twice")
        if scale != "NONE":
            raise block.error("scaleType", scale, "NONE for a CATEGORICAL", "leave scaleType out")
        return TunedParameter(name, kind, values=texts)
    if kind == "DISCRETE":
        rising = all(first < second for first, second in itertools.pairwise(numbers))
        if not numbers or not rising or len(numbers) > _MOST_VALUES:
            raise block.error(
                "discreteValues",
                list(numbers)[:10],
                f"1 to {_MOST_VALUES:,} numbers, each above the one before",
            )
        _check_scale(block, scale, numbers[0])
        return TunedParameter(name, kind, values=numbers, scale=scale)
    for field, value in (("minValue", minimum), ("maxValue", maximum)):
        if value is None:
            raise block.error(field, "", "given", f"give the range of {name} as minValue and maxValue")
        if kind == "INTEGER" and not value.is_integer():
            raise block.error(field, value, "a whole number for an INTEGER", "round it, or use DOUBLE")
    assert minimum is not None and maximum is not None  # noqa: S101, PT018 - seen above
    if minimum >= maximum:
        raise block.error("minValue", minimum, f"below maxValue ({maximum:g})")
    _check_scale(block, scale, minimum)
    return TunedParameter(name, kind, minimum, maximum, scale=scale)


def _check_belongs(block: FieldsReader, kind: str, *, ranged: bool) -> None:
    belongs = {
        "minValue": ranged,
        "maxValue": ranged,
        "categoricalValues": kind == "CATEGORICAL",
        "discreteValues": kind == "DISCRETE",
    }
    needed = [field for field, right in belongs.items() if right]
    for field, right in belongs.items():
        if block.has(field) and not right:
            raise InvalidArgumentError(
                f"{block.path_of(field)} does not go with type {kind}",
                where=block.where,
                remedy=f"a {kind} has {' and '.join(needed)}",
            )


def _check_scale(block: FieldsReader, scale: str, minimum: float) -> None:
    if "LOG" in scale and minimum <= 0:
        raise block.error(
            "scaleType",
            scale,
            f"UNIT_LINEAR_SCALE where a value can be {minimum:g}",
            "a logarithm needs values above 0: raise the smallest one, or use UNIT_LINEAR_SCALE",
        )
