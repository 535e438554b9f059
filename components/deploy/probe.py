"""Loads a model in this process, as a server would, and asks it: ``python -m components.deploy.probe``."""

import sys
from dataclasses import dataclass
from pathlib import Path

from components.common.arguments import argument, parse_command_line
from components.common.step import run_command


@dataclass(frozen=True)
class ProbeArguments:
    """What to ask."""

    model: str = argument("", "Folder of the SavedModel.")


def probe() -> None:
    """Asks the model for a picture.

    Raises:
        CheckFailedError: if it is damaged or does not answer.
    """
    from components.common.probe_image import check_answers_probe
    from components.common.served_model import load_served_model

    arguments = ProbeArguments(**parse_command_line(sys.argv[1:], [ProbeArguments]))
    check_answers_probe(load_served_model(Path(arguments.model)))


if __name__ == "__main__":
    run_command("deploy", probe)
