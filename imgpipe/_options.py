"""Options of the API: checked by name, and listed in the signatures that notebooks show and complete."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from imgpipe.components.common.arguments import checked_value, flat_fields, nearest_name
from imgpipe.components.common.errors import InvalidArgumentError

Function = TypeVar("Function", bound=Callable[..., Any])


def list_options(options: type[Any]) -> Callable[[Function], Function]:
    """Puts the keys of a ``TypedDict`` in place of ``**options`` in a function's ``inspect.signature``."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {parameter.name for parameter in parameters}
        for name, annotation in get_type_hints(options).items():
            if name not in names:
                # The default depends on the recipe.
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(inspect.Parameter(name, kind, default=..., annotation=annotation))
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def check_options(arguments_classes: Sequence[type[Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options by name, paths as text.

    Raises:
        InvalidArgumentError: for a name that none of the classes has, or a value of a wrong type or size.
    """
    known = flat_fields(arguments_classes)
    values = {}
    for name, value in options.items():
        if name not in known:
            raise InvalidArgumentError(f"there is no option {name!r}", remedy=nearest_name(name, known))
        given = os.fspath(value) if isinstance(value, os.PathLike) else value
        values[name] = checked_value(known[name], given)
    return values
