"""``python -m imgpipe.components.deploy.probe``: loads a model as a server does, and sends it a request."""

import sys
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.arguments import argument, parse_command_line
from imgpipe.components.common.step import run_command


@dataclass(frozen=True)
class ProbeArguments:
    """The model to check."""

    model: str = argument("", "Folder of the SavedModel.")


def probe() -> None:
    """Loads the model and classifies a test image.

    Raises:
        CheckFailedError: if it cannot be loaded or does not answer.
    """
    from imgpipe.components.common.served_model import check_probe_prediction, load_served_model

    arguments = ProbeArguments(**parse_command_line(sys.argv[1:], [ProbeArguments]))
    check_probe_prediction(load_served_model(Path(arguments.model)))


if __name__ == "__main__":
    run_command("deploy", probe)
