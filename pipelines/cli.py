"""The command line: ``imgpipe``."""

import sys

import click

from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError
from imgpipe.pipelines.commands.check import check
from imgpipe.pipelines.commands.completion import completion
from imgpipe.pipelines.commands.jobs import cancel, describe, list_, stream_logs
from imgpipe.pipelines.commands.predict import predict
from imgpipe.pipelines.commands.run import run, tune
from imgpipe.pipelines.commands.schedule import schedule
from imgpipe.pipelines.commands.serve import serve
from imgpipe.pipelines.commands.submit import migrate, submit


@click.group()
@click.version_option(package_name="image-classification-pipeline", prog_name="imgpipe")
def imgpipe() -> None:
    """Labeled images in, the most accurate SavedModel out."""


for _command in (
    *(run, tune, predict, serve, submit, check, migrate),
    *(describe, list_, stream_logs, cancel, schedule, completion),
):
    imgpipe.add_command(_command)


def main() -> None:
    """Runs ``imgpipe``."""
    try:
        imgpipe.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(InvalidArgumentError.exit_code)
    except click.Abort:
        sys.exit(InterruptedRunError.exit_code)
