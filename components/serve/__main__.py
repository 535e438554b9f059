"""``python -m components.serve --model=FOLDER [--port=8501 ...]``."""

import sys

from components.common.arguments import parse_command_line
from components.common.step import run_command


def main() -> None:
    """Serves the model that the command line names."""
    from components.serve.arguments import ServeArguments

    arguments = ServeArguments(**parse_command_line(sys.argv[1:], [ServeArguments]))
    # Only now: a wrong flag is refused without loading TensorFlow.
    from components.serve.server import serve

    serve(arguments)


if __name__ == "__main__":
    run_command("serve", main)
