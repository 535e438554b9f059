"""Draws docs/kubeflow-form.svg: the form of a pipeline in the web interface of Kubeflow Pipelines 2.17."""

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from imgpipe.components.preflight.pipeline_inputs import TRAIN
from imgpipe.pipelines.builders import builders_of
from imgpipe.pipelines.form_reference import field_label, form_inputs, shown_default
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.kubeflow import KUBEFLOW

_WIDTH, _FIELD_HEIGHT, _DISTANCE, _MARGIN, _TOP = 600, 44, 60, 16, 56
# Width of a letter of a label, for the gap in the outline.
_LETTER = 6.2
_STYLE = """<style>
.page{fill:#fff}.title{font-size:17px;font-weight:600;fill:#3c4043}.box{fill:none;stroke:#b0b4b8}.gap{fill:#fff}
.label{font-size:11px;fill:#5f6368}.empty{fill:#5f6368}.value{fill:#202124}.open{fill:#1a73e8;font-weight:600}
.arrow{fill:#5f6368}
</style>"""


def form_picture() -> str:
    """Returns the picture of the training pipeline's form."""
    inputs = form_inputs(builders_of(KUBEFLOW)[TRAIN](KUBEFLOW, Images()))
    height = _TOP + _DISTANCE * len(inputs)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img" '
        f'aria-label="The fields of the form: {", ".join(inputs)}">',
        _STYLE,
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="{_MARGIN}" y="30">Run parameters</text>',
    ]
    for position, (name, parameter) in enumerate(inputs.items()):
        lines += _field(name, parameter, _TOP + _DISTANCE * position)
    return "\n".join([*lines, "</svg>", ""])


def _field(name: str, parameter: Mapping[str, Any], top: int) -> list[str]:
    label, value, right = field_label(name, parameter), shown_default(parameter), _WIDTH - _MARGIN
    width, gap, middle = right - _MARGIN, round(len(label) * _LETTER + 8), top + 27
    box = f'<rect class="box" x="{_MARGIN}" y="{top}" width="{width}" height="{_FIELD_HEIGHT}" rx="4"/>'
    if not value:
        return [box, f'<text class="empty" x="{_MARGIN + 12}" y="{middle}">{label}</text>']
    lines = [
        box,
        f'<rect class="gap" x="{_MARGIN + 8}" y="{top - 4}" width="{gap}" height="8"/>',
        f'<text class="label" x="{_MARGIN + 12}" y="{top + 4}">{label}</text>',
        f'<text class="value" x="{_MARGIN + 12}" y="{middle}">{escape(value)}</text>',
    ]
    if "literals" in parameter:
        lines.append(f'<path class="arrow" d="M{right - 24} {top + 20}h10l-5 5z"/>')
    if parameter["parameterType"] == "STRUCT":
        lines.append(
            f'<text class="open" x="{right - 12}" y="{middle}" text-anchor="end">Open Json Editor</text>'
        )
    return lines
