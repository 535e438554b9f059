"""Options of the API: checked by name, and listed with descriptions in the signatures and docstrings."""

import dataclasses
import inspect
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from imgpipe.components.common.arguments import (
    LIST_KINDS,
    checked_value,
    description_of,
    flat_fields,
    nearest_name,
)
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.train.recipes import default_of

Function = TypeVar("Function", bound=Callable[..., Any])


def list_options(
    arguments_classes: Sequence[type[Any]], *, recipes: bool = False
) -> Callable[[Function], Function]:
    """Lists the fields of the classes in a function's signature, in place of ``**options``, and docstring.

    Args:
        arguments_classes: Arguments dataclasses.
        recipes: Whether recipes decide defaults; these are ``...`` in the signature.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        # The parameter ``search_space`` says the same as the argument ``tune``.
        own = {"tune", *(parameter.name for parameter in parameters)}
        lines = [inspect.cleandoc(function.__doc__ or ""), "", "Options:"]
        for name, field in flat_fields(arguments_classes).items():
            if name in own:
                continue
            choices = field.metadata["choices"]
            annotation: Any = Literal[choices] if choices else type(field.default)
            if field.metadata["kind"]:
                annotation |= os.PathLike[str]
            default = default_of(field) if recipes else str(field.default)
            value = field.default if default == str(field.default) else ...
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, kind, default=value, annotation=annotation))
            text = f"{name}: {description_of(field)}" + (f" Default: {default}." if default else "")
            lines += textwrap.wrap(text, 100, initial_indent=" " * 4, subsequent_indent=" " * 8)
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        function.__doc__ = "\n".join(lines)
        return function

    return decorate


def check_options(arguments_classes: Sequence[type[Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options by name: paths as text, a list of texts as one text, numbers of NumPy as Python's.

    An option that is None is omitted.

    Raises:
        InvalidArgumentError: for a name that none of the classes has, or a value of a wrong type or size.
    """
    known = flat_fields(arguments_classes)
    values = {}
    for name, value in options.items():
        if name not in known:
            raise InvalidArgumentError(f"there is no option {name!r}", remedy=nearest_name(name, known))
        if value is None and "none" not in (known[name].metadata["choices"] or ()):
            # Omitted; but "none" is not the default of an argument that has this choice, e.g. weights.
            continue
        if isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, list | tuple) and _may_be_list(known[name]):
            value = ",".join(map(str, value))
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        values[name] = checked_value(known[name], value)
    return values


def checked_path(name: str, value: Any, *, remedy: str) -> str:
    """Returns a path as text.

    Raises:
        InvalidArgumentError: if the value is not a path, or empty.
    """
    if isinstance(value, str | os.PathLike) and (path := os.fspath(value)):
        return path
    raise InvalidArgumentError(f"{name}={value!r} is not a path", remedy=remedy)


def _may_be_list(field: "dataclasses.Field[Any]") -> bool:
    if field.metadata["kind"] or field.metadata["choices"]:
        return field.metadata["kind"] in LIST_KINDS
    return isinstance(field.default, str)
