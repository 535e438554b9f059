"""What every engine does: it chooses and runs the trials of a tuning, and hands over what came of them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from components.tune.trials import Trial

# Gets all trials whenever one of them has something new.
Report = Callable[[Sequence[Trial]], None]


class Engine(Protocol):
    """A way to run a search. Started again after an interruption, it goes on with the same search."""

    def run(self, report: Report) -> Sequence[Trial]:
        """Runs the search to its end and returns all trials; their models are in ``job_dir/model/trial_ID``.

        Args:
            report: Told of every change.

        Raises:
            PipelineError: if the search cannot go on, too many trials failed, or it is told to stop.
        """
