"""``python -m imgpipe.components.audit --dataset=FOLDER [--output=FOLDER ...]``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgpipe.components.audit.arguments import AuditArguments
from imgpipe.components.common.arguments import argument, check_fields, from_values, parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command
from imgpipe.components.storage import local_path


@dataclass(frozen=True)
class AuditPaths:
    """The paths on the command line."""

    dataset: str = argument("", "Folder with the manifest.json that the convert step wrote.")
    output: str = argument("audit", "Folder for audit.html, decisions.csv and audit.json.")

    def __post_init__(self) -> None:
        """Checks that the data set is given.

        Raises:
            InvalidArgumentError: if it is missing or is a URL.
        """
        check_fields(self)
        if not local_path(self.dataset).name:
            raise InvalidArgumentError("--dataset is missing", remedy="add --dataset=FOLDER")


_ARGUMENTS = (AuditPaths, AuditArguments)


def main(command_line: Sequence[str]) -> None:
    """Audits the data set given on the command line."""
    values = parse_command_line(command_line, _ARGUMENTS)
    paths = from_values(AuditPaths, values)
    arguments = from_values(AuditArguments, values)
    arguments.check_weights()
    # Imported here so that an invalid flag is rejected before TensorFlow loads.
    from imgpipe.components.audit.audit import audit

    audit(local_path(paths.dataset), local_path(paths.output), arguments)


if __name__ == "__main__":
    run_command("audit", lambda: main(sys.argv[1:]), _ARGUMENTS)
