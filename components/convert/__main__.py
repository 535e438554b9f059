"""The convert step: ``python -m imgpipe.components.convert --train_csv=... --output_dir=...``."""

import dataclasses
import sys
from dataclasses import dataclass

from imgpipe.components.common.arguments import argument, check_fields, from_values, parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import ShardWriter, convert


@dataclass(frozen=True)
class RunnerArguments:
    """The Apache Beam runner that does the work, if any."""

    runner: str = argument(
        "",
        "Apache Beam runner that writes the shards, for more data than one machine converts: DirectRunner, "
        "DataflowRunner, FlinkRunner, SparkRunner or another one of Beam's. All its workers must see "
        "output_dir and the images, so usually gs:// or s3://. Needs the extra beam. Empty = this machine, "
        "without Beam, which is the fastest on one machine.",
    )
    project_id: str = argument("", "Google Cloud project in which Dataflow runs. Only together with runner.")
    runner_options: str = argument(
        "",
        "More options of the Beam runner, as on Beam's own command line, separated by spaces, e.g. "
        "'--region=us-central1 --temp_location=gs://bucket/temp'. Only together with runner.",
    )

    def __post_init__(self) -> None:
        """Checks that runner_options comes with a runner.

        ``project_id`` may come without one: the original converter always required it.
        """
        check_fields(self)
        if self.runner_options and not self.runner:
            raise InvalidArgumentError(
                f"--runner_options={self.runner_options} is given without --runner",
                remedy="add --runner, or remove --runner_options",
            )


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

    return beam_writer(runner.runner, runner.project_id, runner.runner_options)


if __name__ == "__main__":
    run_command("convert", main, _ARGUMENTS)
