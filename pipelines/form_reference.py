"""Writes docs/kubeflow-form.md: the forms of Kubeflow's web interface, and their manuals."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from google.protobuf.json_format import MessageToDict

from imgpipe.components.preflight.pipeline_inputs import PIPELINES
from imgpipe.pipelines.builders import builders_of
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow import KUBEFLOW

_INTRODUCTION = """# The form

Written by `make compile` from the code; do not edit.

*Create run* in Kubeflow's web interface shows these fields, in this order, without their meaning. A field
with choices is a drop-down list. `settings` takes any other argument by name, as a JSON object; *Open Json
Editor* opens an editor for it. [Arguments](arguments.md) lists them all.

The page of a pipeline (*Show Summary*) shows the description that was given when the pipeline was uploaded.
`imgpipe upload` gives the manual of the form. In the upload dialog, paste the text below the table into
*Pipeline Description*; the page formats it.
"""
# As NewRunParametersUtils.ts of Kubeflow Pipelines names the types.
_TYPE_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "STRING": "string",
        "NUMBER_INTEGER": "integer",
        "NUMBER_DOUBLE": "double",
        "BOOLEAN": "boolean",
        "STRUCT": "dict",
        "LIST": "list",
    }
)


def form_reference() -> str:
    """Returns the page: a table and a manual for each form."""
    builders, sections = builders_of(KUBEFLOW), [_INTRODUCTION]
    for name in PIPELINES:
        pipeline = builders[name](KUBEFLOW, Images())
        manual = pipeline.pipeline_spec.pipeline_info.description
        sections.append(
            "\n".join([f"## {name}", "", *_table(form_inputs(pipeline)), "", "```", manual, "```", ""])
        )
    return "\n".join(sections)


def form_inputs(pipeline: Any) -> dict[str, dict[str, Any]]:
    """Returns the inputs of a pipeline by name, as the web interface gets them, in its order."""
    inputs = MessageToDict(pipeline.pipeline_spec)["root"]["inputDefinitions"]["parameters"]
    return dict(sorted(inputs.items()))


def _field_label(name: str, parameter: Mapping[str, Any]) -> str:
    """Returns the label of a field in the form."""
    return f"{name} - {_TYPE_NAMES[parameter['parameterType']]}"


def _shown_default(parameter: Mapping[str, Any]) -> str:
    """Returns the content of a field before anything is filled in."""
    default = parameter["defaultValue"]
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return default if isinstance(default, str) else json.dumps(default)


def _table(inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| field | default | choices | meaning |", "|---|---|---|---|"]
    for name, parameter in inputs.items():
        default = _shown_default(parameter)
        cells = (
            f"`{_field_label(name, parameter)}`",
            f"`{default}`" if default else "empty",
            ", ".join(f"`{choice}`" for choice in parameter.get("literals", ())),
            # The choices have a column.
            parameter["description"].partition(" Allowed: ")[0],
        )
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines
