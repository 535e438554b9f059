"""serve: a model's REST API on this machine."""

from typing import Any

import click
from rich.console import Console

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.model_folder import model_folder_at
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.storage import local_path
from imgpipe.pipelines.commands.grouped_options import ArgumentCommand, argument_options
from imgpipe.pipelines.commands.output import echo_events
from imgpipe.pipelines.commands.run import exit_with_error, given_values


@click.command(cls=ArgumentCommand, short_help="Serve a model on this machine.")
@argument_options(ServeArguments)
def serve(**flags: Any) -> None:
    """Serve a model on this machine with TensorFlow Serving's REST API.

    For local use: there is no authentication. --model is the folder of a run or of a
    SavedModel, or a folder of numbered versions as --deploy-target local writes it. Stop it with Ctrl-C.
    """
    try:
        arguments = ServeArguments(**given_values(flags))
        model_folder_at(local_path(arguments.model))
        # Imported here: TensorFlow takes seconds to load.
        from imgpipe.components.serve.server import serve as serve_model

        with echo_events():
            serve_model(arguments)
    except PipelineError as error:
        exit_with_error(error, Console(stderr=True))
