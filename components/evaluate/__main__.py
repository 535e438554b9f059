"""``python -m imgpipe.components.evaluate --dataset=FOLDER --model=FOLDER [--champion=FOLDER ...]``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.arguments import argument, check_fields, from_values, parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.storage import local_path


@dataclass(frozen=True)
class EvaluatePaths:
    """What the component gets as artifacts and the command line as paths."""

    dataset: str = argument("", "Folder that holds manifest.json, as the convert step wrote it.")
    model: str = argument(
        "", "Folder that holds saved_model.pb, or one with numbered versions, of which the highest counts."
    )
    output: str = argument("evaluation", "Folder for metrics.json and report.html.")

    def __post_init__(self) -> None:
        """Checks that the data and the model are named.

        Raises:
            InvalidArgumentError: if they are not, or are URLs.
        """
        check_fields(self)
        for name in ("dataset", "model"):
            if not local_path(getattr(self, name)).name:
                raise InvalidArgumentError(f"--{name} is missing", remedy=f"give --{name}=FOLDER")


def main(words: Sequence[str]) -> None:
    """Evaluates the model that the command line names."""
    values = parse_command_line(words, (EvaluatePaths, EvaluateArguments))
    paths = from_values(EvaluatePaths, values)
    arguments = from_values(EvaluateArguments, values)
    # Only now: a wrong flag is refused without loading TensorFlow.
    from imgpipe.components.common.model_folder import model_folder_at
    from imgpipe.components.evaluate.evaluate import EvaluationFiles, evaluate

    output: Path = local_path(paths.output)
    evaluate(
        local_path(paths.dataset),
        model_folder_at(local_path(paths.model)),
        EvaluationFiles(output, output / "report.html"),
        arguments,
    )


if __name__ == "__main__":
    run_command("evaluate", lambda: main(sys.argv[1:]))
