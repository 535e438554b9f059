"""``python -m imgpipe.components.serve --model=FOLDER [--port=8501 ...]``."""

import sys

from imgpipe.components.common.arguments import parse_command_line
from imgpipe.components.common.engines import check_engine
from imgpipe.components.common.model_folder import model_folder_at
from imgpipe.components.common.step import run_command
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.storage import local_path


def main() -> None:
    """Runs the server with the arguments of the command line."""
    arguments = ServeArguments(**parse_command_line(sys.argv[1:], [ServeArguments]))
    model_folder_at(local_path(arguments.model))
    check_engine(arguments.engine)
    # Imported here so that a wrong flag or folder is reported before TensorFlow is loaded.
    from imgpipe.components.serve.server import serve

    serve(arguments)


if __name__ == "__main__":
    run_command("serve", main, [ServeArguments])
