"""The convert step's command line: ``python -m components.convert --train_csv=... --output_dir=...``."""

import sys
from dataclasses import dataclass

from components.common.arguments import argument, check_fields, from_values, parse_command_line
from components.common.errors import InvalidArgumentError
from components.common.step import run_command
from components.common.storage import local_path
from components.convert.arguments import ConvertArguments
from components.convert.convert import convert


@dataclass(frozen=True)
class OutputArguments:
    """Where the data set goes."""

    output_dir: str = argument("", "Folder for the data set; it must be empty or not exist yet.")

    def __post_init__(self) -> None:
        """Checks that the folder is named."""
        check_fields(self)
        if not self.output_dir:
            raise InvalidArgumentError(
                "--output_dir is not given", remedy="write --output_dir=FOLDER: an empty or a new folder"
            )


def main() -> None:
    """Parses the command line and converts."""
    values = parse_command_line(sys.argv[1:], (ConvertArguments, OutputArguments))
    arguments = from_values(ConvertArguments, values)
    convert(arguments, local_path(from_values(OutputArguments, values).output_dir))


if __name__ == "__main__":
    run_command("convert", main)
