"""Writes docs/arguments.md from the arguments dataclasses."""

from collections.abc import Iterable
from dataclasses import Field
from typing import Any

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import Group, allowed_values, flat_fields
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow import KUBEFLOW
from imgpipe.pipelines.targets.vertex import VERTEX

_INTRODUCTION = """# Arguments

Written by `make compile` from the code; do not edit.

The inputs of the pipelines `image-classification`, `image-classification-tune` and
`image-classification-retrain`. They have the same names in the `settings` of the
[Kubeflow form](kubeflow-form.md), as options of `imgpipe run`, `imgpipe tune` and `imgpipe submit`
(`--max-steps` and `--max_steps` are the same), and on a step's own command line. The inputs of
`batch-predict` are [at the end](#batch-prediction). The [recipe](train.md#recipes) supplies the values
of arguments that are `auto` or -1. It is `auto` by default, but `original` for `imgpipe submit`,
`imgpipe schedule` and a step's own command line. The other defaults are those of the original algorithm where
it had the argument.
"""
_TARGETS = (("Only on Kubeflow", KUBEFLOW), ("Only on Vertex AI", VERTEX))
_HOW_TO_GIVE = (
    "With `imgpipe submit` and `imgpipe schedule create`, give `--input NAME=VALUE` before `--`, unless the "
    "input has its own flag or a field in config.yaml."
)
_TITLES = {Group.TUNING: "Tuning (only in image-classification-tune and imgpipe tune)"}
_BATCH_INTRODUCTION = (
    "The inputs of the pipeline `batch-predict` and the options of [`imgpipe predict`](predict.md)."
)


def arguments_reference() -> str:
    """Returns the page: one table for each group of arguments."""
    sections = [_INTRODUCTION]
    fields = flat_fields(TUNE_PIPELINE_ARGUMENTS).values()
    for group in Group:
        if in_group := [field for field in fields if field.metadata["group"] == group]:
            sections.append(_section(_TITLES.get(group, group), in_group))
    for title, target in _TARGETS:
        sections.append(_section(title, target.inputs(Images()).values(), _HOW_TO_GIVE, ""))
        for step, classes in target.step_arguments.items():
            step_title = f"{title}, in the pipeline with the step {step}"
            sections.append(_section(step_title, flat_fields(classes).values()))
    batch_fields = flat_fields([BatchPredictArguments]).values()
    sections.append(_section("Batch prediction", batch_fields, _BATCH_INTRODUCTION, ""))
    return "\n".join(sections)


def _section(title: str, fields: Iterable[Field[Any]], *introduction: str) -> str:
    return "\n".join([f"## {title}", "", *introduction, *_table(fields), ""])


def _table(fields: Iterable[Field[Any]]) -> list[str]:
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
