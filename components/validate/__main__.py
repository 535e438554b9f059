"""``python -m imgpipe.components.validate --dataset=FOLDER [--report=FILE --summary=FILE ...]``.

Without a data set's folder, name the TFRecord files: ``--training_data_path='data/train-*'
--validation_data_path='data/validation-*'``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgpipe.components.common.arguments import argument, check_fields, from_values, parse_command_line
from imgpipe.components.common.beam import RunnerArguments
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.step import run_command
from imgpipe.components.storage import local_path, parse_location
from imgpipe.components.validate.arguments import ValidateArguments

if TYPE_CHECKING:
    from imgpipe.components.validate.reading import DatasetReader


@dataclass(frozen=True)
class ValidatePaths:
    """The paths on the command line; the component gets them as artifacts."""

    dataset: str = argument(
        "", "Folder, local, gs:// or s3://, with the manifest.json that the convert step wrote."
    )
    training_data_path: str = argument(
        "",
        "TFRecord files with the training images: a path with *, ? or [1-9], or several separated by commas, "
        "local, gs:// or s3://. Give this or `dataset`.",
    )
    validation_data_path: str = argument(
        "", "TFRecord files with the validation images, in the same form as training_data_path."
    )
    labels_file: str = argument(
        "", "Text file with one label per line: line i names label i. Requires training_data_path."
    )
    report: str = argument("validation.html", "File to write the HTML page to.")
    summary: str = argument("validation.json", "File to write the findings to, as JSON.")
    work_dir: str = argument(
        "",
        "Folder, local, gs:// or s3://, for files of the Beam runner's workers, which all of them must see; "
        "the files are removed at the end. Only together with runner, which requires it.",
    )

    def __post_init__(self) -> None:
        """Checks that the data is named in exactly one way.

        Raises:
            InvalidArgumentError: if it is not.
        """
        check_fields(self)
        if not self.dataset and not (self.training_data_path and self.validation_data_path):
            raise InvalidArgumentError(
                "--dataset is missing",
                remedy="use --dataset=FOLDER, or --training_data_path=... with --validation_data_path=...",
            )
        others = [
            name
            for name in ("training_data_path", "validation_data_path", "labels_file")
            if getattr(self, name)
        ]
        if self.dataset and others:
            raise InvalidArgumentError(
                f"--dataset={self.dataset} is given together with --{others[0]}",
                remedy="use one of them: the data set's manifest already names its shards and labels",
            )


_ARGUMENTS = (ValidatePaths, ValidateArguments, RunnerArguments)


def main(argv: Sequence[str]) -> None:
    """Runs the step with the arguments of the command line."""
    values = parse_command_line(argv, _ARGUMENTS)
    paths = from_values(ValidatePaths, values)
    arguments = from_values(ValidateArguments, values)
    runner = from_values(RunnerArguments, values)
    _check_runner(paths, runner)
    # Imported here so that a wrong flag is reported before NumPy and Pillow are loaded.
    from pathlib import Path

    from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest_at, with_absolute_paths
    from imgpipe.components.validate.record_files import describe_record_files
    from imgpipe.components.validate.validate import validate_to_files

    read = _make_reader(runner, paths.work_dir)
    report, summary = local_path(paths.report), local_path(paths.summary)
    if paths.dataset:
        dataset = parse_location(paths.dataset)
        manifest = read_manifest_at(dataset)
        if not dataset.is_local:
            manifest = with_absolute_paths(manifest, dataset)
        folder = Path(paths.dataset).expanduser() if dataset.is_local else Path()
    else:
        patterns = {TRAIN: paths.training_data_path, VALIDATION: paths.validation_data_path}
        manifest = describe_record_files(
            patterns, paths.labels_file, arguments.num_classes, multi_label=arguments.multi_label
        )
        folder = Path()
    # Without either, it is not known to which size a training run will scale the images.
    check_sizes = not values.keys().isdisjoint({"model_type", "image_size"})
    validate_to_files(manifest, folder, report, summary, arguments, check_sizes=check_sizes, read=read)


def _check_runner(paths: ValidatePaths, runner: RunnerArguments) -> None:
    if bool(runner.runner) != bool(paths.work_dir):
        given, missing = ("runner", "work_dir") if runner.runner else ("work_dir", "runner")
        raise InvalidArgumentError(
            f"--{given} is given without --{missing}", remedy=f"add --{missing}, or remove --{given}"
        )
    if runner.runner and not paths.dataset:
        raise InvalidArgumentError(
            f"--runner={runner.runner} requires --dataset",
            remedy="describe the TFRecord files with the convert step (--training_data_path=... "
            "--validation_data_path=... --output_dir=FOLDER), and use --dataset=FOLDER",
        )


def _make_reader(runner: RunnerArguments, work_dir: str) -> "DatasetReader":
    if not runner.runner:
        from imgpipe.components.validate.reading import read_dataset

        return read_dataset
    # Imported here because Beam takes seconds to load and most runs do not need it.
    from imgpipe.components.validate.beam_runner import beam_reader

    return beam_reader(runner, work_dir)


if __name__ == "__main__":
    run_command("validate", lambda: main(sys.argv[1:]), _ARGUMENTS)
