"""``python -m imgpipe.components.deploy.probe``: loads a model as a server would, and asks it."""

import sys
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.arguments import argument, parse_command_line
from imgpipe.components.common.step import run_command


@dataclass(frozen=True)
class ProbeArguments:
    """What to ask."""

    model: str = argument("", "Folder of the SavedModel.")


def probe() -> None:
    """Asks the model for a picture.

    Raises:
        CheckFailedError: if it is damaged or does not answer.
    """
    from imgpipe.components.common.served_model import check_probe_prediction, load_served_model

    arguments = ProbeArguments(**parse_command_line(sys.argv[1:], [ProbeArguments]))
    check_probe_prediction(load_served_model(Path(arguments.model)))


if __name__ == "__main__":
    run_command("deploy", probe)
