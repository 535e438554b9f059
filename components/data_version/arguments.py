"""The arguments of the data_version step: the input data, with the same arguments as convert."""

from dataclasses import dataclass

from imgpipe.components.common.arguments import Group, argument, check_fields, same_argument
from imgpipe.components.convert.arguments import ConvertArguments


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
    images: str = same_argument(ConvertArguments, "images")
    training_data_path: str = same_argument(ConvertArguments, "training_data_path")
    validation_data_path: str = same_argument(ConvertArguments, "validation_data_path")
    test_data_path: str = same_argument(ConvertArguments, "test_data_path")
    labels_file: str = same_argument(ConvertArguments, "labels_file")
    decisions: str = same_argument(ConvertArguments, "decisions")
    output_dir: str = same_argument(ConvertArguments, "output_dir")

    def __post_init__(self) -> None:
        check_fields(self)
