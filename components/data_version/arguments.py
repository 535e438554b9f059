"""The arguments of the data_version step: where the data lies, as convert takes it."""

from dataclasses import dataclass, field
from typing import Any

from imgpipe.components.common.arguments import Group, argument, check_fields, flat_fields
from imgpipe.components.convert.arguments import ConvertArguments

_OF_CONVERT = flat_fields([ConvertArguments])


def _as_convert_takes_it(name: str) -> Any:
    return field(default=_OF_CONVERT[name].default, metadata=_OF_CONVERT[name].metadata)


@dataclass(frozen=True)
class DataVersionArguments:
    """What tells the data of today from the data of yesterday."""

    data_version: str = argument(
        "",
        "A name for the state of your data, e.g. a date or a commit: while it stays the same, convert and "
        "validate are cached. Empty = computed from the names, sizes and modification times of the files, "
        "if images or training_data_path name them; otherwise nothing is cached.",
        group=Group.DATA,
    )
    images: str = _as_convert_takes_it("images")
    training_data_path: str = _as_convert_takes_it("training_data_path")
    validation_data_path: str = _as_convert_takes_it("validation_data_path")
    labels_file: str = _as_convert_takes_it("labels_file")
    output_dir: str = _as_convert_takes_it("output_dir")

    def __post_init__(self) -> None:
        check_fields(self)
