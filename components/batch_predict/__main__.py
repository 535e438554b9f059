"""``python -m imgpipe.components.batch_predict --model=FOLDER --images=FOLDER --output_dir=FOLDER``."""

import sys
from collections.abc import Sequence

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.common.arguments import parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command


def main(argv: Sequence[str]) -> None:
    """Runs the step with the arguments of the command line."""
    arguments = BatchPredictArguments(**parse_command_line(argv, [BatchPredictArguments]))
    if not arguments.output_dir:
        raise InvalidArgumentError("--output_dir is missing", remedy="use --output_dir=FOLDER")
    from imgpipe.components.batch_predict.batch_predict import batch_predict

    batch_predict(arguments)


if __name__ == "__main__":
    run_command("batch_predict", lambda: main(sys.argv[1:]), [BatchPredictArguments])
