"""The arguments of a tuning."""

import math
from dataclasses import dataclass

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, Kind, argument, check_fields

AUTO, ON, OFF = "auto", "on", "off"
BAYESIAN, GRID, RANDOM = "bayesian", "grid", "random"
# Without a hyperparameters block that says otherwise: what fits a laptop's afternoon.
DEFAULT_TRIALS = 10


@dataclass(frozen=True)
class TuneArguments:
    """What is tuned, and how; the search space itself is checked against the training's arguments.

    Raises:
        InvalidArgumentError: on construction, naming each argument that is wrong.
    """

    hyperparameters: str = argument(
        "",
        "The hyperparameters block of AI Platform's config.yaml, as YAML or JSON; a whole config.yaml will "
        "do, of which nothing else is taken.",
        group=Group.TUNING,
    )
    tune: str = argument(
        "",
        "What to tune, in short, added to hyperparameters: name=log:0.001:0.2, name=linear:0:0.5, "
        "name=reverse-log:0.9:0.999 for a range, name=16,32,64 for values; several separated by semicolons.",
        group=Group.TUNING,
    )
    max_trials: int = argument(
        0,
        f"Trials in all. 0 = as hyperparameters says, or else {DEFAULT_TRIALS}.",
        group=Group.TUNING,
        minimum=0,
    )
    max_parallel_trials: int = argument(
        0,
        "Trials at a time; processors and GPUs are shared out among them. 0 = as hyperparameters says, or "
        "else 1.",
        group=Group.TUNING,
        minimum=0,
    )
    max_failed_trials: int = argument(
        0,
        "End the search when so many trials have failed. 0 = as hyperparameters says; if that says nothing, "
        "when half of all trials have, but not before the third.",
        group=Group.TUNING,
        minimum=0,
    )
    trial_early_stopping: str = argument(
        AUTO,
        "Whether trials without prospects are stopped: on, off, or auto: as hyperparameters says, or else "
        "on.",
        group=Group.TUNING,
        choices=(AUTO, ON, OFF),
    )
    search_algorithm: str = argument(
        AUTO,
        "How values are chosen: bayesian (learns from the trials before), grid (every combination), random, "
        "or auto: as hyperparameters says, or else bayesian.",
        group=Group.TUNING,
        choices=(AUTO, BAYESIAN, GRID, RANDOM),
    )
    resume_previous_job_id: str = argument(
        "",
        "An earlier tuning whose trials the search should know: its job_dir, or the name of that folder "
        "beside this job_dir. Its trials count in no limit.",
        group=Group.TUNING,
        kind=Kind.EARLIER_JOB,
    )
    trial_silence_limit: int = argument(
        3600,
        "A trial that writes nothing for so many seconds counts as hung and is ended. It writes a line a "
        "second while it trains, none while it evaluates. 0 = never.",
        group=Group.TUNING,
        minimum=0,
    )
    job_dir: str = shared_arguments.job_dir()
    seed: int = shared_arguments.seed()

    def __post_init__(self) -> None:
        check_fields(self)


def failed_trials_limit(max_failed_trials: int, max_trials: int) -> int:
    """Returns after how many failed trials a search ends.

    Args:
        max_failed_trials: As the user said; 0 = not said.
        max_trials: Trials in all.
    """
    return max_failed_trials or min(max_trials, max(3, math.ceil(max_trials / 2)))
