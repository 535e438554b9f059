"""The arguments of the data_version step: the input data, with the same arguments as convert."""

from dataclasses import dataclass, field
from typing import Any

from imgpipe.components.common.arguments import Group, argument, check_fields, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments

_CONVERT_FIELDS = flat_fields([ConvertArguments])


def _convert_argument(name: str) -> Any:
    return field(default=_CONVERT_FIELDS[name].default, metadata=_CONVERT_FIELDS[name].metadata)


@dataclass(frozen=True)
class DataVersionArguments:
    """The input data, and optionally its version."""

    data_version: str = argument(
        "",
        "A name for the state of your data, e.g. a date or a commit: while it stays the same, convert and "
        "validate are cached. Empty = computed from the names, sizes and modification times of the files "
        "if images or training_data_path is set; otherwise nothing is cached.",
        group=Group.DATA,
    )
    images: str = _convert_argument("images")
    training_data_path: str = _convert_argument("training_data_path")
    validation_data_path: str = _convert_argument("validation_data_path")
    test_data_path: str = _convert_argument("test_data_path")
    labels_file: str = _convert_argument("labels_file")
    decisions: str = _convert_argument("decisions")
    output_dir: str = _convert_argument("output_dir")

    def __post_init__(self) -> None:
        check_fields(self)
