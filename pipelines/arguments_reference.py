"""Writes docs/arguments.md from the arguments dataclasses."""

import dataclasses
from typing import Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import allowed_values, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow import KUBEFLOW
from imgpipe.pipelines.targets.vertex import VERTEX

_INTRODUCTION = """# Arguments

Written by `make compile` from the code; do not edit.

The inputs of the pipelines `image-classification`, `image-classification-tune` and
`image-classification-retrain`, under the same names in the Kubeflow form, as options of `imgpipe run`,
`imgpipe tune` and `imgpipe submit` (`--max-steps` and `--max_steps` are the same) and in a step's own command
line; those of `batch-predict` are [at the end](#batch-prediction). The defaults are the original algorithm's
where it had them; `imgpipe run` starts from a [recipe](train.md#recipes).
"""
_TARGETS = (("Only on Kubeflow", KUBEFLOW), ("Only on Vertex AI", VERTEX))
_HOW_TO_GIVE = (
    "In the form as all others; for `imgpipe submit` and `imgpipe schedule create`, `--input NAME=VALUE` "
    "before `--`, but for those that have a flag of their own or a field in config.yaml."
)
_SECTIONS = (
    ("Data", ConvertArguments),
    ("Training", TrainingArguments),
    ("Evaluation", EvaluateArguments),
    ("Output", ExportArguments),
    ("Gate", GateArguments),
    ("Deployment", DeployArguments),
    ("Tuning (only in image-classification-tune and imgpipe tune)", TuneArguments),
)
_BATCH_INTRODUCTION = """## Batch prediction

The inputs of the pipeline `batch-predict` and the options of [`imgpipe predict`](predict.md).
"""


def arguments_reference() -> str:
    """Returns the page: a table for each step, an argument that several steps share once."""
    sections = [_INTRODUCTION]
    shown: set[str] = set()
    for title, arguments_class in _SECTIONS:
        fields = [field for field in dataclasses.fields(arguments_class) if field.name not in shown]
        shown.update(field.name for field in fields)
        sections.append("\n".join([f"## {title}", "", *_table(fields), ""]))
    for title, target in _TARGETS:
        inputs = target.inputs(Images())
        sections.append("\n".join([f"## {title}", "", _HOW_TO_GIVE, "", *_table(list(inputs.values())), ""]))
        for step, classes in target.step_arguments.items():
            heading = f"## {title}, in the pipeline with the step {step}"
            sections.append("\n".join([heading, "", *_table(list(flat_fields(classes).values())), ""]))
    missing = {field.name for field in dataclasses.fields(ValidateArguments)} - shown
    if missing:
        raise ValueError(f"the page leaves out {', '.join(sorted(missing))}")
    sections.append(
        "\n".join([_BATCH_INTRODUCTION, *_table(list(dataclasses.fields(BatchPredictArguments))), ""])
    )
    return "\n".join(sections)


def _table(fields: "list[dataclasses.Field[Any]]") -> list[str]:
    lines = ["| argument | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for field in fields:
        default = f"`{field.default}`" if field.default != "" else "empty"
        cells = (
            f"`{field.name}`",
            type(field.default).__name__,
            default,
            allowed_values(field),
            field.metadata["description"],
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines
