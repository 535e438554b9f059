"""Docstrings of component functions that run the same step on different platforms."""

import inspect
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., None])


def with_args_of(base: Callable[..., None], **more: str) -> Callable[[_Function], _Function]:
    """Adds the Args section of ``base`` to the docstring of a function, followed by ``more`` arguments."""

    def add(function: _Function) -> _Function:
        args = (inspect.getdoc(base) or "").partition("\n\n")[2]
        lines = [f"    {name}: {description}" for name, description in more.items()]
        function.__doc__ = "\n".join([f"{inspect.getdoc(function)}\n\n{args}", *lines])
        return function

    return add
