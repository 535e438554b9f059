"""The optimizers and their settings, available without loading TensorFlow."""

import math
from types import MappingProxyType

from imgpipe.components.common.arguments import nearest_name
from imgpipe.components.common.errors import InvalidArgumentError

# The settings of each optimizer that optimizer_arguments may contain, with their defaults.
OPTIMIZER_ARGUMENTS = MappingProxyType(
    {
        "momentum": {"momentum": 0.9, "use_nesterov": False},
        "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7},
        "rmsprop": {"decay": 0.9, "momentum": 0.0, "epsilon": 1e-7},
    }
)
_ALLOWED_SETTINGS = MappingProxyType({"use_nesterov": "true or false", "epsilon": "a number greater than 0"})
_FRACTION = "a number from 0 to below 1"


def optimizer_settings(optimizer_type: str, optimizer_arguments: str) -> dict[str, float | bool]:
    """Returns an optimizer's settings: its defaults, overridden by ``optimizer_arguments``.

    Args:
        optimizer_type: A name of ``OPTIMIZER_ARGUMENTS``.
        optimizer_arguments: ``name=value`` pairs, separated by commas.

    Raises:
        InvalidArgumentError: for an unknown or repeated name, or an invalid value.
    """
    defaults = OPTIMIZER_ARGUMENTS[optimizer_type]
    given: dict[str, float | bool] = {}
    where = f"optimizer_arguments={optimizer_arguments!r}"
    for pair in filter(None, (part.strip() for part in optimizer_arguments.split(","))):
        name, _, text = (part.strip() for part in pair.partition("="))
        if name not in defaults:
            raise InvalidArgumentError(
                f"optimizer_type={optimizer_type} has no setting {name!r}",
                where=where,
                remedy=nearest_name(name, defaults),
            )
        if name in given:
            raise InvalidArgumentError(f"{name} is given twice", where=where, remedy="remove one of the two")
        value = _parse_setting(name, text)
        if value is None:
            raise InvalidArgumentError(
                f"{name}={text!r} is not a valid {name}",
                where=where,
                remedy=f"use {_ALLOWED_SETTINGS.get(name, _FRACTION)}",
            )
        given[name] = value
    return {**defaults, **given}


def _parse_setting(name: str, text: str) -> float | bool | None:
    """Returns the value of a setting; None if it is invalid."""
    if name == "use_nesterov":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    try:
        value = float(text)
    except ValueError:
        return None
    # epsilon prevents a division by zero.
    allowed = 0 < value < math.inf if name == "epsilon" else 0 <= value < 1
    return value if allowed else None
