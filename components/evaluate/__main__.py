"""``python -m imgpipe.components.evaluate --dataset=FOLDER --model=FOLDER [--champion=FOLDER ...]``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from imgpipe.components.common.arguments import argument, check_fields, from_values, parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.storage import local_path


@dataclass(frozen=True)
class EvaluatePaths:
    """The paths that the component gets as artifacts."""

    dataset: str = argument("", "Folder with manifest.json, from the convert step.")
    model: str = argument(
        "", "Folder with saved_model.pb, or with numbered versions, of which the highest is used."
    )
    output: str = argument("evaluation", "Folder for metrics.json, predictions.csv and report.html.")

    def __post_init__(self) -> None:
        """Checks that the dataset and the model are given.

        Raises:
            InvalidArgumentError: if one is missing or is a URL.
        """
        check_fields(self)
        for name in ("dataset", "model"):
            if not local_path(getattr(self, name)).name:
                raise InvalidArgumentError(f"--{name} is missing", remedy=f"add --{name}=FOLDER")


_ARGUMENTS = (EvaluatePaths, EvaluateArguments)


def main(command_line: Sequence[str]) -> None:
    """Evaluates the model given on the command line."""
    values = parse_command_line(command_line, _ARGUMENTS)
    paths = from_values(EvaluatePaths, values)
    arguments = from_values(EvaluateArguments, values)
    # Imported here so that an invalid flag is rejected before TensorFlow loads.
    from imgpipe.components.common.model_folder import model_folder_at
    from imgpipe.components.evaluate.evaluate import evaluate

    evaluate(
        local_path(paths.dataset),
        model_folder_at(local_path(paths.model)),
        local_path(paths.output),
        arguments,
    )


if __name__ == "__main__":
    run_command("evaluate", lambda: main(sys.argv[1:]), _ARGUMENTS)
