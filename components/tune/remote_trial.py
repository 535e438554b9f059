"""A trial's command line on another machine: that of the training, with a folder for each trial in job_dir.

``python -m imgpipe.components.tune.remote_trial --training_data_path=PATTERN --validation_data_path=PATTERN
--job-dir=DIR --trial_id=ID --initial_learning_rate=0.01 ...``. Vertex AI names the trial in
CLOUD_ML_TRIAL_ID, our template for Katib in KATIB_TRIAL_NAME. Whoever chose the values stops the trial with
SIGTERM; its best model is published all the same.
"""

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import (
    argument,
    check_fields,
    flat_fields,
    from_values,
    parse_command_line,
)
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.hyperparameters import reversed_value
from imgpipe.components.common.step import run_command
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.storage.files import absolute_location
from imgpipe.components.train.__main__ import JobArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.katib_lines import KATIB_TRIAL_NAME
from imgpipe.components.tune.job_dir import trial_location, trial_model_location
from imgpipe.components.tune.trial_run import ShouldStop, TrialTask, run_remote_trial

_NAMES_OF_TRIAL = ("CLOUD_ML_TRIAL_ID", KATIB_TRIAL_NAME)


@dataclass(frozen=True)
class RemoteTrialArguments:
    """Which trial of the tuning this is."""

    trial_id: str = argument(
        "",
        "Name of the trial's folder below job_dir/trials. Empty = the value of "
        f"{' or '.join(_NAMES_OF_TRIAL)}, which Vertex AI and Katib set.",
    )
    reversed_values: str = argument(
        "",
        "Arguments whose value is given from the other end of its range, name:MINIMUM:MAXIMUM separated by "
        "semicolons: the value is MINIMUM + MAXIMUM - the one that is given. By this, a service that knows "
        "the logarithmic scale searches the reverse one.",
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
        self.ranges()

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the ranges of ``reversed_values`` by argument.

        Raises:
            InvalidArgumentError: if a part of it is no range of an argument that is a number.
        """
        fields = flat_fields([TrainingArguments])
        found = {}
        for part in filter(None, self.reversed_values.split(";")):
            name, *limits = part.split(":")
            try:
                if type(fields[name].default) not in (int, float):
                    raise ValueError(name)
                minimum, maximum = map(float, limits)
            except (KeyError, ValueError):
                raise InvalidArgumentError(
                    f"--reversed_values: {part!r} is no range of a training argument",
                    remedy="write name:MINIMUM:MAXIMUM",
                ) from None
            found[name] = minimum, maximum
        return found


def main(words: Sequence[str], function: Callable[[TrialTask, ShouldStop], Any] = run_remote_trial) -> None:
    """Runs the trial that the command line says.

    Args:
        words: Of the command line.
        function: Runs the trial.
    """
    values = parse_command_line(words, (JobArguments, RemoteTrialArguments, TrainingArguments))
    job = from_values(JobArguments, values)
    training = from_values(TrainingArguments, values)
    trial = from_values(RemoteTrialArguments, values)
    for name, limits in trial.ranges().items():
        value = reversed_value(getattr(training, name), *limits)
        training = dataclasses.replace(training, **{name: type(getattr(training, name))(value)})
    named = (trial.trial_id, *(os.environ.get(name, "") for name in _NAMES_OF_TRIAL))
    trial_id = next(filter(None, named), "")
    if not trial_id or not training.job_dir:
        raise InvalidArgumentError(
            "a trial needs --job_dir and --trial_id",
            remedy="for a single training: python -m imgpipe.components.train",
        )
    # Only now: a wrong flag is refused without loading Pillow and TensorFlow.
    from imgpipe.components.convert.convert import convert

    job_dir = absolute_location(training.job_dir)
    folder = trial_location(job_dir, trial_id)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Path(temporary) / "dataset"
        convert(
            ConvertArguments(
                training_data_path=job.training_data_path,
                validation_data_path=job.validation_data_path,
                labels_file=job.labels_file,
                multi_label=training.multi_label,
            ),
            dataset,
        )
        task = TrialTask(
            trial=0,
            arguments={**vars(training), "job_dir": folder},
            dataset=str(dataset),
            folder=folder,
            model=trial_model_location(job_dir, trial_id),
        )
        function(task, lambda _: "")


if __name__ == "__main__":
    run_command("trial", lambda: main(sys.argv[1:]))
