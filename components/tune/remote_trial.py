"""A trial's command line on another machine: that of the training, with a folder for each trial in job_dir.

``python -m components.tune.remote_trial --training_data_path=PATTERN --validation_data_path=PATTERN
--job-dir=DIR --trial_id=ID --initial_learning_rate=0.01 ...``. Vertex AI names the trial in
CLOUD_ML_TRIAL_ID. Whoever chose the values stops the trial with SIGTERM; its best model is published all the
same.
"""

import importlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.common.arguments import argument, check_fields, from_values, parse_command_line
from components.common.errors import InvalidArgumentError
from components.common.step import run_command
from components.common.storage import local_path
from components.convert.arguments import ConvertArguments
from components.train.__main__ import JobArguments
from components.train.arguments import TrainingArguments
from components.tune.job_dir import trial_folder, trial_model
from components.tune.trial_run import TrialTask

_VERTEX_TRIAL_ID = "CLOUD_ML_TRIAL_ID"
WORK = "components.tune.trial_run:run_remote_trial"


@dataclass(frozen=True)
class RemoteTrialArguments:
    """Which trial of the tuning this is."""

    trial_id: str = argument(
        "",
        f"Name of the trial's folder below job_dir/trials. Empty = ${_VERTEX_TRIAL_ID}, set by Vertex AI.",
    )

    def __post_init__(self) -> None:
        """Checks the name.

        Raises:
            InvalidArgumentError: if it cannot be a folder's.
        """
        check_fields(self)
        if self.trial_id and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.trial_id):
            raise InvalidArgumentError(
                f"--trial_id={self.trial_id!r} cannot be a folder's name",
                remedy="use letters, digits, - and _",
            )


def main(words: Sequence[str], work: str = WORK) -> None:
    """Runs the trial that the command line says.

    Args:
        words: Of the command line.
        work: What is done, ``module:function``.
    """
    values = parse_command_line(words, (JobArguments, RemoteTrialArguments, TrainingArguments))
    job = from_values(JobArguments, values)
    training = from_values(TrainingArguments, values)
    trial_id = from_values(RemoteTrialArguments, values).trial_id or os.environ.get(_VERTEX_TRIAL_ID, "")
    if not trial_id or not training.job_dir:
        raise InvalidArgumentError(
            "a trial needs --job_dir and --trial_id",
            remedy="for a single training: python -m components.train",
        )
    # Only now: a wrong flag is refused without loading Pillow and TensorFlow.
    from components.convert.convert import convert

    job_dir = local_path(training.job_dir).absolute()
    folder = trial_folder(job_dir, trial_id)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Path(temporary) / "dataset"
        convert(
            ConvertArguments(
                training_data_path=job.training_data_path,
                validation_data_path=job.validation_data_path,
                labels_file=job.labels_file,
            ),
            dataset,
        )
        task = TrialTask(
            trial=0,
            arguments={**vars(training), "job_dir": str(folder)},
            dataset=str(dataset),
            folder=str(folder),
            model=str(trial_model(job_dir, trial_id)),
        )
        module, _, function = work.partition(":")
        getattr(importlib.import_module(module), function)(task, lambda _: "")


if __name__ == "__main__":
    run_command("trial", lambda: main(sys.argv[1:]))
