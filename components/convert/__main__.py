"""The convert step: ``python -m imgpipe.components.convert --train_csv=... --output_dir=...``."""

import dataclasses
import sys

from imgpipe.components.common.arguments import from_values, parse_command_line
from imgpipe.components.common.beam import RunnerArguments
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import ShardWriter, convert

_ARGUMENTS = (ConvertArguments, RunnerArguments)


def main() -> None:
    """Parses the command line and converts."""
    values = parse_command_line(sys.argv[1:], _ARGUMENTS)
    runner = from_values(RunnerArguments, values)
    arguments = from_values(ConvertArguments, values)
    if not arguments.output_dir:
        raise InvalidArgumentError(
            "--output_dir is missing", remedy="set --output_dir=FOLDER to a new or empty folder"
        )
    # The manifest is written beside the shards, so it refers to them by name.
    folder = arguments.output_dir
    convert(dataclasses.replace(arguments, output_dir=""), folder, writer=_make_writer(runner))


def _make_writer(runner: RunnerArguments) -> ShardWriter | None:
    if not runner.runner:
        return None
    # Imported here because Beam takes seconds to load and most runs do not need it.
    from imgpipe.components.convert.beam_runner import beam_writer

    return beam_writer(runner)


if __name__ == "__main__":
    run_command("convert", main, _ARGUMENTS)
