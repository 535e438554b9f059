"""Writes imgpipe/_arguments.py: the options of the Python API as typed dictionaries."""

import dataclasses
import json
import textwrap
from typing import Any

from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.common.arguments import LIST_KINDS, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS, TUNE_PIPELINE_ARGUMENTS
from imgpipe.components.validate.arguments import ValidateArguments

_HEADER = '''"""The options of the Python API, for type checkers; ``help(imgpipe.run)`` describes them.

Written by `make compile` from the code; do not edit.
"""

# fmt: off

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]
'''
_LINE_LENGTH = 110


def option_types() -> str:
    """Returns the module's text: a ``TypedDict`` for each function of the API.

    At run time the dataclasses check names and values.
    """
    convert, run = flat_fields((ConvertArguments,)), flat_fields(PIPELINE_ARGUMENTS)
    # ``imgpipe.convert`` requires it, as a parameter of its own.
    del convert["output_dir"]
    tune = flat_fields(TUNE_PIPELINE_ARGUMENTS)
    # Its parameter ``search_space`` says the same.
    del tune["tune"]
    classes = (
        _class("Convert", "TypedDict", convert),
        _class("Validate", "TypedDict", flat_fields((ValidateArguments,))),
        _class("Audit", "TypedDict", flat_fields((AuditArguments,))),
        _class("Run", "ConvertOptions", {name: run[name] for name in run if name not in convert}),
        _class("Tune", "RunOptions", {name: tune[name] for name in tune if name not in run}),
    )
    return "\n\n".join([_HEADER, *classes])


def _class(function: str, base: str, fields: dict[str, "dataclasses.Field[Any]"]) -> str:
    lines = [f"class {function}Options({base}, total=False):"]
    for name, field in fields.items():
        line = f"    {name}: {_type(field)}"
        lines += textwrap.wrap(line, _LINE_LENGTH, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _type(field: "dataclasses.Field[Any]") -> str:
    if choices := field.metadata["choices"]:
        return f"Literal{json.dumps(choices)}"
    if field.metadata["kind"]:
        return "Paths" if field.metadata["kind"] in LIST_KINDS else "Path"
    return type(field.default).__name__
