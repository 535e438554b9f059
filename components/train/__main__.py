"""The command line of the training job, which reads a data set and writes ``job_dir/model``.

``python -m imgpipe.components.train --training_data_path=PATTERN --validation_data_path=PATTERN --job-dir=DIR
--max_steps=1000 ...``, with the flags of Google's built-in algorithm; or with
``--dataset=FOLDER/manifest.json`` in place of the patterns.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.arguments import argument, check_fields, from_values, parse_command_line
from imgpipe.components.common.dataset import (
    MANIFEST_NAME,
    read_manifest_at,
    with_absolute_paths,
    write_manifest,
)
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.mlflow import tracked_run
from imgpipe.components.common.provenance import set_deployment_uri
from imgpipe.components.common.published_model import MODEL_FOLDER, check_model_target, publish_model
from imgpipe.components.common.step import run_command
from imgpipe.components.common.user_settings import cluster_hosts
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.storage import Location, parse_location
from imgpipe.components.train.arguments import TrainingArguments


@dataclass(frozen=True)
class JobArguments:
    """The inputs that are artifacts of the component and paths on the command line."""

    dataset: str = argument(
        "",
        "manifest.json of a data set that convert wrote, local, gs:// or s3://. Replaces training_data_path, "
        "validation_data_path and labels_file: what the manifest says about the files is not read again.",
    )
    training_data_path: str = argument(
        "",
        "TFRecord files with the training images: a path or pattern (*, ?, [1-9]), or several separated by "
        "commas. Required without `dataset`.",
    )
    validation_data_path: str = argument(
        "", "TFRecord files with the validation images. Required without `dataset`."
    )
    labels_file: str = argument(
        "",
        "UTF-8 text file with one label per line: line i names label i. Empty = the label texts in the "
        "records, or the numbers.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.dataset:
            for name in ("training_data_path", "validation_data_path"):
                _require(name, getattr(self, name))
            return
        for name in ("training_data_path", "validation_data_path", "labels_file"):
            if getattr(self, name):
                raise InvalidArgumentError(
                    f"--dataset and --{name} cannot be used together", remedy="use one of them"
                )

    def write_dataset(self, folder: Path, *, multi_label: bool) -> None:
        """Writes a data set's folder: the manifest, or what a conversion of the TFRecord files gives.

        Raises:
            MissingInputError: if the manifest or a file does not exist.
            InvalidDataError: if the manifest or a record is damaged.
            InterruptedRunError: if a remote store cannot be reached.
        """
        if self.dataset:
            location = parse_location(self.dataset)
            source = location.parent if location.name == MANIFEST_NAME else location
            write_manifest(folder, with_absolute_paths(read_manifest_at(source), source))
            return
        # Imported here so that an invalid flag is rejected before Pillow and TensorFlow load.
        from imgpipe.components.convert.convert import convert

        convert(
            ConvertArguments(
                training_data_path=self.training_data_path,
                validation_data_path=self.validation_data_path,
                labels_file=self.labels_file,
                multi_label=multi_label,
            ),
            folder,
        )


def _require(name: str, value: str) -> None:
    if not value:
        raise InvalidArgumentError(f"--{name} is required", remedy="run with --help for all arguments")


_ARGUMENTS = (JobArguments, TrainingArguments)


def main(command_line: Sequence[str]) -> None:
    """Trains and publishes the model to ``job_dir``."""
    values = parse_command_line(command_line, _ARGUMENTS)
    job = from_values(JobArguments, values)
    arguments = from_values(TrainingArguments, values)
    _require("job_dir", arguments.job_dir)
    job_dir = parse_location(arguments.job_dir)
    check_model_target(job_dir)
    job_dir.check_writable()

    def publish(folder: Path) -> Location:
        set_deployment_uri(folder, str(job_dir.absolute() / MODEL_FOLDER))
        return publish_model(folder, job_dir)

    # Imported here, so that an invalid flag is rejected without loading Pillow and TensorFlow.
    from imgpipe.components.train.train import train

    # Of several workers, the chief logs to the run that the environment names; none is created.
    hosts = cluster_hosts(os.environ.get("TF_CONFIG", ""))
    with (
        nullcontext() if len(hosts) > 1 else tracked_run("train", tags={"imgpipe.job_dir": str(job_dir)}),
        tempfile.TemporaryDirectory() as temporary,
    ):
        dataset, model = Path(temporary) / "dataset", Path(temporary) / "model"
        job.write_dataset(dataset, multi_label=arguments.multi_label)
        train(arguments, dataset, model, publish=publish)
        if not model.exists():
            # Only the chief of several workers writes the model.
            return
        target = publish(model)
    log_event("published", f"train: published to {target}")


if __name__ == "__main__":
    run_command("train", lambda: main(sys.argv[1:]), _ARGUMENTS)
