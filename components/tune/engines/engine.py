"""The interface of engines, which choose and run the trials of a tuning run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.hyperparameters import Hyperparameters
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.trials import Trial

# Called with all trials whenever a trial has changed.
Report = Callable[[Sequence[Trial]], None]


@dataclass(frozen=True)
class TuningSpec:
    """Everything an engine needs to run a search; ``tune`` has already checked it.

    Attributes:
        request: The search space and the search settings.
        tuning: The arguments of the tune step.
        training: The training arguments shared by all trials.
        dataset: The folder that contains the dataset's manifest.
        manifest: The dataset's manifest.
        job_dir: The folder for trials and models.
        measures_steps: Whether the number of steps of a trial follows from its speed and the time budget.
    """

    request: Hyperparameters
    tuning: TuneArguments
    training: TrainingArguments
    dataset: Path
    manifest: Manifest
    job_dir: Path
    measures_steps: bool = False


class Engine(Protocol):
    """Runs a search. An interrupted search that is started again resumes."""

    def run(self, report: Report) -> Sequence[Trial]:
        """Runs the search and returns all trials; their models are in ``job_dir/model/trial_ID``.

        Args:
            report: Called after every change.

        Raises:
            PipelineError: if the search cannot continue, too many trials failed, or it was stopped.
        """
