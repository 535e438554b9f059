"""The search space: read from a ``hyperparameters`` block or its short form, checked and sampled.

The search runs in coordinates for which Optuna has a distribution; ``values_of`` converts a point in these
coordinates to the values of training arguments.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgpipe.components.common.arguments import flat_fields, nearest_name
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.common.hyperparameters import (
    Hyperparameters,
    TunedParameter,
    check_tuned_arguments,
    read_hyperparameters,
    reversed_value,
    typed_value,
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

if TYPE_CHECKING:
    import optuna

_SCALES = {
    "none": "NONE",
    "linear": "UNIT_LINEAR_SCALE",
    "log": "UNIT_LOG_SCALE",
    "reverse-log": "UNIT_REVERSE_LOG_SCALE",
}
_ALGORITHM = {BAYESIAN: "", GRID: "GRID_SEARCH", RANDOM: "RANDOM_SEARCH"}


def read_request(arguments: TuneArguments) -> Hyperparameters:
    """Returns the tuning request; flags override the values in the block.

    Raises:
        InvalidArgumentError: naming the invalid field or value and what is allowed.
    """
    block = block_in(arguments.hyperparameters)
    short_forms = filter(None, map(str.strip, arguments.tune.split(";")))
    parameters = [*block.get("params", ()), *map(_short_form, short_forms)]
    if not parameters:
        raise InvalidArgumentError(
            "there is nothing to tune",
            remedy="set tune, e.g. tune=initial_learning_rate=log:0.001:0.2, or `hyperparameters`; imgpipe "
            "tune also takes --config FILE",
        )
    defaults: dict[str, Any] = {}
    if not arguments.hyperparameters.strip():
        defaults = {"maxTrials": DEFAULT_TRIALS, "enableTrialEarlyStopping": True}
    block = {**defaults, **block, "params": parameters}
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
    """Rejects a search space with a point that the training would reject.

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
        training: The training arguments shared by all trials.
        values: The values of the tuned parameters: numbers and strings.
        job_dir: The trial's job_dir.

    Raises:
        InvalidArgumentError: if the values are invalid.
    """
    fields = flat_fields([TrainingArguments])
    typed = {name: typed_value(value, fields[name]) for name, value in values.items()}
    return dataclasses.replace(training, **typed, job_dir=job_dir)


def distribution_of(parameter: TunedParameter) -> "optuna.distributions.BaseDistribution":
    """Returns the distribution of the coordinate in which a parameter is searched.

    UNIT_LOG_SCALE is Optuna's log scale. Optuna has no equivalent of UNIT_REVERSE_LOG_SCALE, which is dense
    near the maximum: the coordinate u is log-uniform, and the value is minimum + maximum - u. A DISCRETE
    value is searched by its index in the list, so that the sampler knows the order; all values are equally
    likely. A range without a scale is searched linearly.
    """
    # Imported here: the checks of a search space run in an image without Optuna.
    import optuna

    if parameter.type == "CATEGORICAL":
        return optuna.distributions.CategoricalDistribution(parameter.values)
    if parameter.type == "DISCRETE":
        return optuna.distributions.IntDistribution(0, len(parameter.values) - 1)
    log = "LOG" in parameter.scale
    if parameter.type == "INTEGER":
        return optuna.distributions.IntDistribution(int(parameter.minimum), int(parameter.maximum), log=log)
    return optuna.distributions.FloatDistribution(parameter.minimum, parameter.maximum, log=log)


def distributions_of(request: Hyperparameters) -> "dict[str, optuna.distributions.BaseDistribution]":
    """Returns the distributions of a search space by parameter."""
    return {parameter.name: distribution_of(parameter) for parameter in request.parameters}


def values_of(request: Hyperparameters, point: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of training arguments at a point of the search space."""
    return {parameter.name: _value(parameter, point[parameter.name]) for parameter in request.parameters}


def completed_trial(
    request: Hyperparameters,
    values: Mapping[str, Any],
    objective: float,
    user_attrs: Mapping[str, Any] | None = None,
) -> "optuna.trial.FrozenTrial":
    """Returns a trial with these values, for a study.

    Raises:
        ValueError: if a value is not in the search space.
        KeyError: if a parameter has no value.
    """
    import optuna

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
    """Yields all points of a space without DOUBLE parameters; the last parameter changes fastest."""
    axes: dict[str, Sequence[Any]] = {}
    for parameter in request.parameters:
        if parameter.type == "CATEGORICAL":
            axes[parameter.name] = parameter.values
        elif parameter.type == "DISCRETE":
            axes[parameter.name] = range(len(parameter.values))
        else:
            axes[parameter.name] = range(int(parameter.minimum), int(parameter.maximum) + 1)
    for point in itertools.product(*axes.values()):
        yield dict(zip(axes, point, strict=True))


def grid_size(request: Hyperparameters) -> int:
    """Returns the number of points in the grid."""
    return math.prod(
        len(parameter.values) or int(parameter.maximum) - int(parameter.minimum) + 1
        for parameter in request.parameters
    )


def identity_of(request: Hyperparameters) -> dict[str, Any]:
    """Returns the settings that must not change when a search is resumed: JSON values by name."""
    spaces = {parameter.name: dataclasses.asdict(parameter) for parameter in request.parameters}
    return {"params": spaces}


def _value(parameter: TunedParameter, coordinate: Any) -> Any:
    if parameter.type == "DISCRETE":
        return parameter.values[coordinate]
    if parameter.scale == "UNIT_REVERSE_LOG_SCALE":
        return _reversed(parameter, coordinate)
    return coordinate


def _reversed(parameter: TunedParameter, number: Any) -> Any:
    value = reversed_value(float(number), parameter.minimum, parameter.maximum)
    return int(value) if parameter.type == "INTEGER" else value


def largest_batch_size(request: Hyperparameters) -> dict[str, int]:
    """Returns the pipeline's train_batch_size if it is tuned: the largest, for the checks of the data."""
    sizes = [
        float(size)
        for tuned in request.parameters
        if tuned.name == "train_batch_size"
        for size in tuned.values or (tuned.maximum,)
    ]
    return {"train_batch_size": int(max(sizes))} if sizes else {}


def block_in(text: str, *, where: str = "hyperparameters") -> dict[str, Any]:
    """Returns the fields of the hyperparameters block, unchecked because flags may override them.

    Args:
        text: The block, or a complete config.yaml.
        where: The file, for errors.

    Raises:
        InvalidArgumentError: if it is not YAML, or does not contain the block.
    """
    if not text.strip():
        return {}
    block = parse_yaml(text, where=where)
    if isinstance(block, Mapping) and isinstance(block.get("trainingInput"), Mapping):
        block = block["trainingInput"]
        if "hyperparameters" not in block:
            raise InvalidArgumentError(
                "trainingInput has no hyperparameters block",
                where=where,
                remedy="add the block with goal, maxTrials and params, or use another file",
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


def _short_form(text: str) -> dict[str, Any]:
    """Returns ``name=log:0.001:0.2`` or ``name=16,32,64`` as an entry of ``params``."""
    name, equals, space = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    fields = flat_fields([TrainingArguments])
    if not equals or not space.strip():
        raise _error(text, "has no values")
    if name not in fields:
        raise InvalidArgumentError(
            f"tune={text!r}: there is no training argument {name!r}", remedy=nearest_name(name, fields)
        )
    kind = type(fields[name].default)
    parts = [part.strip() for part in space.split(":")]
    scale = _SCALES.get(parts[0].lower()) if len(parts) == 3 else "NONE"
    if kind in (int, float) and len(parts) in (2, 3):
        if scale is None:
            raise InvalidArgumentError(
                f"tune={text!r} has the unknown scale {parts[0]!r}",
                remedy=nearest_name(parts[0], [name for name in _SCALES if name != "none"]),
            )
        try:
            minimum, maximum = (float(part) for part in parts[-2:])
        except ValueError:
            raise _error(text, "has a limit that is not a number") from None
        return {
            "parameterName": name,
            "type": "INTEGER" if kind is int else "DOUBLE",
            "minValue": minimum,
            "maxValue": maximum,
            "scaleType": scale,
        }
    values = [part.strip() for part in space.split(",")]
    if kind not in (int, float):
        return {"parameterName": name, "type": "CATEGORICAL", "categoricalValues": values}
    try:
        numbers = sorted(float(value) for value in values)
    except ValueError:
        raise _error(text, "has a value that is not a number") from None
    if len(set(numbers)) < len(numbers):
        duplicate = next(number for number in numbers if numbers.count(number) > 1)
        raise InvalidArgumentError(
            f"tune={text!r} has a duplicate value", remedy=f"remove the duplicate {duplicate:g}"
        )
    return {"parameterName": name, "type": "DISCRETE", "discreteValues": numbers}


def _error(text: str, problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"tune={text!r} {problem}",
        remedy="write NAME=log:0.001:0.2 (or linear, reverse-log) for a range, or NAME=16,32,64 for values",
    )
