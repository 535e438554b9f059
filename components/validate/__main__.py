"""``python -m components.validate --dataset=FOLDER --report=FILE --summary=FILE [--num_classes=5 ...]``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from components.common.arguments import argument, check_fields, from_values, parse_command_line
from components.common.errors import InvalidArgumentError
from components.common.step import run_command
from components.common.storage import local_path
from components.validate.arguments import ValidateArguments


@dataclass(frozen=True)
class ValidatePaths:
    """What the component gets as artifacts and the command line as paths."""

    dataset: str = argument("", "Folder that holds manifest.json, as the convert step wrote it.")
    report: str = argument("validation.html", "File to write the HTML page to.")
    summary: str = argument("validation.json", "File to write the findings to, as JSON.")

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.dataset:
            raise InvalidArgumentError("--dataset is missing", remedy="give --dataset=FOLDER")


def main(words: Sequence[str]) -> None:
    """Validates the data set that the command line names."""
    values = parse_command_line(words, (ValidatePaths, ValidateArguments))
    paths = from_values(ValidatePaths, values)
    arguments = from_values(ValidateArguments, values)
    # Only now: a wrong flag is refused without loading NumPy and Pillow.
    from components.validate.validate import validate_to_files

    validate_to_files(
        local_path(paths.dataset), local_path(paths.report), local_path(paths.summary), arguments
    )


if __name__ == "__main__":
    run_command("validate", lambda: main(sys.argv[1:]))
