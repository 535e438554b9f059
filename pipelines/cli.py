"""The command line: ``imgpipe``."""

import os
import sys

import click

from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError
from imgpipe.pipelines.commands.audit import audit
from imgpipe.pipelines.commands.check import check
from imgpipe.pipelines.commands.compare import compare
from imgpipe.pipelines.commands.completion import completion
from imgpipe.pipelines.commands.jobs import cancel, describe, list_, stream_logs
from imgpipe.pipelines.commands.output import survive_closed_output
from imgpipe.pipelines.commands.predict import predict
from imgpipe.pipelines.commands.resume import resume
from imgpipe.pipelines.commands.run import run, tune
from imgpipe.pipelines.commands.schedule import schedule
from imgpipe.pipelines.commands.serve import serve
from imgpipe.pipelines.commands.submit import migrate, submit
from imgpipe.pipelines.commands.upload import upload


@click.group()
@click.version_option(package_name="image-classification-pipeline", prog_name="imgpipe")
def imgpipe() -> None:
    """Labeled images in, the most accurate SavedModel out."""


for _command in (
    *(run, resume, tune, audit, predict, serve, submit, check, migrate, upload),
    *(describe, list_, compare, stream_logs, cancel, schedule, completion),
):
    imgpipe.add_command(_command)


def main() -> None:
    """Runs ``imgpipe``."""
    if sys.flags.optimize > 1 and "PYTHONOPTIMIZE" in os.environ:
        # The texts of --help are docstrings, which Python has removed: start again with them.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - the same command
    survive_closed_output()
    try:
        imgpipe.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(InvalidArgumentError.exit_code)
    except click.Abort:
        sys.exit(InterruptedRunError.exit_code)
