"""predict: a model's predictions for many images."""

from typing import Any

import click
from rich.console import Console

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.pipelines.commands.grouped_options import ArgumentCommand, argument_options
from imgpipe.pipelines.commands.run import exit_with_error, given_values
from imgpipe.pipelines.local_step import run_step
from imgpipe.pipelines.run_display import RunDisplay


@click.command(cls=ArgumentCommand, short_help="Predict many images.")
@argument_options(BatchPredictArguments)
def predict(**flags: Any) -> None:
    """Predict many images: one line of JSON per image, in files below --output-dir.

    The images are a folder or a pattern (--images), a CSV file (--image-list) or TFRecord files (--records).
    For an image that cannot be read, the line has the error. Run the same command again to resume.
    """
    console = Console(stderr=True)
    given = given_values(flags)
    try:
        arguments = BatchPredictArguments(**given)
        if not arguments.output_dir:
            raise InvalidArgumentError("--output-dir is missing", remedy="use --output-dir=FOLDER")
        run_step("batch_predict", [f"--{name}={value}" for name, value in given.items()], RunDisplay(console))
    except PipelineError as error:
        exit_with_error(error, console)
    click.echo(f"  predictions  {arguments.output_dir}")
