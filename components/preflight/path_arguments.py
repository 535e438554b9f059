"""Which arguments of the pipelines name files, and the paths in their values."""

import re

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import Kind, flat_fields
from imgpipe.components.evaluate.arguments import AUTO, NO_CHAMPION
from imgpipe.components.preflight.pipeline_inputs import TUNE_PIPELINE_ARGUMENTS

DATA_KINDS = (Kind.INPUT_FILE, Kind.INPUT_IMAGES, Kind.INPUT_PATTERNS)
INPUT_KINDS = (*DATA_KINDS, Kind.INPUT_MODEL)
WILDCARD = re.compile(r"[*?\[]")
_KINDS = {
    name: field.metadata["kind"]
    for classes in (TUNE_PIPELINE_ARGUMENTS, (BatchPredictArguments,))
    for name, field in flat_fields(classes).items()
}


def path_arguments(*kinds: Kind) -> list[str]:
    """Returns the names of the arguments of some kinds."""
    return [name for name, kind in _KINDS.items() if kind in kinds]


def paths_in(name: str, value: str) -> list[str]:
    """Returns the paths and patterns in the value of an argument that names files."""
    if name == "champion" and value in (AUTO, NO_CHAMPION):
        return []
    kind = _KINDS[name]
    listed = kind == Kind.INPUT_PATTERNS or (kind == Kind.INPUT_IMAGES and WILDCARD.search(value))
    parts = value.split(",") if listed else [value]
    return [part.strip() for part in parts if part.strip()]
