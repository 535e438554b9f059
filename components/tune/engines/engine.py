"""What every engine does: it chooses and runs the trials of a tuning, and hands over what came of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.hyperparameters import Hyperparameters
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.trials import Trial

# Gets all trials whenever one of them has something new.
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
    """

    request: Hyperparameters
    tuning: TuneArguments
    training: TrainingArguments
    dataset: Path
    manifest: Manifest
    job_dir: Path


class Engine(Protocol):
    """A way to run a search. Started again after an interruption, it goes on with the same search."""

    def run(self, report: Report) -> Sequence[Trial]:
        """Runs the search to its end and returns all trials; their models are in ``job_dir/model/trial_ID``.

        Args:
            report: Told of every change.

        Raises:
            PipelineError: if the search cannot go on, too many trials failed, or it is told to stop.
        """
