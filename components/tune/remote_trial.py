"""The command line of a trial on another machine: the training's, with a folder per trial in job_dir.

``python -m imgpipe.components.tune.remote_trial --training_data_path=PATTERN --validation_data_path=PATTERN
--job-dir=DIR --trial_id=ID --initial_learning_rate=0.01 ...``. Vertex AI names the trial in
CLOUD_ML_TRIAL_ID, our Katib template in KATIB_TRIAL_NAME. The service stops the trial with SIGTERM; its best
model so far is still published.
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
from imgpipe.components.storage import parse_location
from imgpipe.components.train.__main__ import JobArguments
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.katib_lines import KATIB_TRIAL_NAME
from imgpipe.components.tune.job_dir import trial_folder, trial_model
from imgpipe.components.tune.trial_run import ShouldStop, TrialTask, run_remote_trial

_TRIAL_VARIABLES = ("CLOUD_ML_TRIAL_ID", KATIB_TRIAL_NAME)


@dataclass(frozen=True)
class RemoteTrialArguments:
    """The trial of a search that is run."""

    trial_id: str = argument(
        "",
        "Name of the trial's folder in job_dir/trials. Empty = the value of "
        f"{' or '.join(_TRIAL_VARIABLES)}, which Vertex AI and Katib set.",
    )
    reversed_values: str = argument(
        "",
        "Arguments with a mirrored value, as name:MINIMUM:MAXIMUM separated by semicolons: the training gets "
        "MINIMUM + MAXIMUM - value. This gives a reverse logarithmic scale to services that only have the "
        "logarithmic one.",
    )

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InvalidArgumentError: if the name is not a valid folder name, or a range is invalid.
        """
        check_fields(self)
        if self.trial_id and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.trial_id):
            raise InvalidArgumentError(
                f"--trial_id={self.trial_id!r} is not a valid folder name",
                remedy="use only letters, digits, - and _",
            )
        self.ranges()

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Returns the ranges in ``reversed_values`` by argument.

        Raises:
            InvalidArgumentError: if a part is not a range of a numeric training argument.
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
                    f"--reversed_values: {part!r} is not a range of a numeric training argument",
                    remedy="write name:MINIMUM:MAXIMUM",
                ) from None
            found[name] = minimum, maximum
        return found


_ARGUMENTS = (JobArguments, RemoteTrialArguments, TrainingArguments)


def main(
    command_line: Sequence[str], function: Callable[[TrialTask, ShouldStop], Any] = run_remote_trial
) -> None:
    """Runs the trial that the command line describes.

    Args:
        command_line: The command-line arguments.
        function: Runs the trial.
    """
    values = parse_command_line(command_line, _ARGUMENTS)
    job = from_values(JobArguments, values)
    training = from_values(TrainingArguments, values)
    trial = from_values(RemoteTrialArguments, values)
    for name, limits in trial.ranges().items():
        value = reversed_value(getattr(training, name), *limits)
        training = dataclasses.replace(training, **{name: type(getattr(training, name))(value)})
    names = (trial.trial_id, *(os.environ.get(name, "") for name in _TRIAL_VARIABLES))
    trial_id = next(filter(None, names), "")
    if not trial_id or not training.job_dir:
        raise InvalidArgumentError(
            "a trial needs --job_dir and --trial_id",
            remedy="for a single training run: python -m imgpipe.components.train",
        )
    job_dir = parse_location(training.job_dir).absolute()
    folder = trial_folder(job_dir, trial_id)
    with tempfile.TemporaryDirectory() as temporary:
        dataset = Path(temporary) / "dataset"
        job.write_dataset(dataset, multi_label=training.multi_label)
        task = TrialTask(
            trial=0,
            arguments={**vars(training), "job_dir": str(folder)},
            dataset=str(dataset),
            folder=str(folder),
            model=str(trial_model(job_dir, trial_id)),
        )
        function(task, lambda _: "")


if __name__ == "__main__":
    run_command("trial", lambda: main(sys.argv[1:]), _ARGUMENTS)
