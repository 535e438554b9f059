"""Writes imgpipe/_arguments.py: the options of the Python API as typed dictionaries."""

import dataclasses
import textwrap
from typing import Any

from imgpipe.components.common.arguments import description_of, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.pipelines.parameters import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS

_HEADER = '''"""The options of the Python API. Written by `make compile` from the code; do not edit."""

import os
from typing import TypedDict

Path = str | os.PathLike[str]
'''
_LINE_LENGTH = 100


def option_types() -> str:
    """Returns the module's text: a ``TypedDict`` for each function of the API, with documented keys.

    They are for editors and type checkers; at run time the dataclasses check names and values.
    """
    convert, run = _keys((ConvertArguments,)), _keys(PIPELINE_ARGUMENTS)
    # ``imgpipe.convert`` requires it, as a parameter of its own.
    del convert["output_dir"]
    classes = (
        _class("convert", "TypedDict", convert),
        _class("validate", "TypedDict", _keys((ValidateArguments,))),
        _class("run", "ConvertOptions", _without(run, convert)),
        _class("tune", "RunOptions", _without(_keys(TUNE_PIPELINE_ARGUMENTS), run)),
    )
    return "\n\n".join([_HEADER, *classes])


def _without(keys: dict[str, list[str]], inherited: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: lines for name, lines in keys.items() if name not in inherited}


def _keys(arguments_classes: tuple[type[Any], ...]) -> dict[str, list[str]]:
    return {field.name: _key(field) for field in flat_fields(arguments_classes).values()}


def _key(field: "dataclasses.Field[Any]") -> list[str]:
    type_name = "Path" if field.metadata.get("kind") else type(field.default).__name__
    default = "" if field.default == "" else f" Default: {field.default}."
    docstring = textwrap.wrap(f'"""{description_of(field)}{default}'.replace("\\", "\\\\"), _LINE_LENGTH)
    docstring = [f'{docstring[0]}"""'] if len(docstring) == 1 else [*docstring, '"""']
    return [f"{field.name}: {type_name}", *docstring]


def _class(function: str, base: str, keys: dict[str, list[str]]) -> str:
    head = f"class {function.title()}Options({base}, total=False):"
    body = "\n\n".join("\n".join(f"    {line}" for line in lines) for lines in keys.values())
    return f'{head}\n    """Options of ``imgpipe.{function}``."""\n\n{body}\n'
