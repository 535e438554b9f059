"""The arguments of the tune step."""

import math
from dataclasses import dataclass
from functools import partial

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, Kind, argument, check_fields

AUTO, ON, OFF = "auto", "on", "off"
BAYESIAN, GRID, RANDOM = "bayesian", "grid", "random"
# The default without a hyperparameters block: a few hours on a laptop.
DEFAULT_TRIALS = 10
_tuning_argument = partial(argument, group=Group.TUNING)


@dataclass(frozen=True)
class TuneArguments:
    """What is tuned, and how; ``check_search_space`` checks the search space.

    Raises:
        InvalidArgumentError: on construction, naming each invalid argument.
    """

    hyperparameters: str = _tuning_argument(
        "",
        "The hyperparameters block of AI Platform's config.yaml, as YAML or JSON. Of a complete config.yaml, "
        "only this block is used.",
    )
    tune: str = _tuning_argument(
        "",
        "Search space in a short form, added to that in `hyperparameters`: NAME=log:0.001:0.2, "
        "NAME=linear:0:0.5 or NAME=reverse-log:0.9:0.999 for a range, NAME=16,32,64 for values. Separate "
        "parameters with semicolons.",
    )
    max_trials: int = _tuning_argument(
        0,
        f"Total number of trials. 0 = the value in `hyperparameters`, or {DEFAULT_TRIALS}.",
        minimum=0,
    )
    max_parallel_trials: int = _tuning_argument(
        0,
        "Number of trials that run in parallel; CPU cores and GPUs are split across them. 0 = the value in "
        "`hyperparameters`, or 1.",
        minimum=0,
    )
    max_failed_trials: int = _tuning_argument(
        0,
        "End the search after this many failed trials. 0 = the value in `hyperparameters`, or half of all "
        "trials, but at least 3.",
        minimum=0,
    )
    trial_early_stopping: str = _tuning_argument(
        AUTO,
        "Whether to stop unpromising trials early: on, off, or auto (the value in `hyperparameters`, or on).",
        choices=(AUTO, ON, OFF),
    )
    search_algorithm: str = _tuning_argument(
        AUTO,
        "How values are chosen: bayesian (learns from earlier trials), grid (every combination), random, or "
        "auto (the value in `hyperparameters`, or bayesian).",
        choices=(AUTO, BAYESIAN, GRID, RANDOM),
    )
    resume_previous_job_id: str = _tuning_argument(
        "",
        "An earlier tuning run to learn from: its job_dir, or the name of a folder next to this job_dir. Its "
        "trials do not count towards any limit.",
        kind=Kind.EARLIER_JOB,
    )
    trial_silence_limit: int = _tuning_argument(
        3600,
        "Seconds without output after which a trial counts as hung and is killed. A trial writes a line "
        "every second while it trains, and none while it evaluates. 0 = never.",
        minimum=0,
    )
    job_dir: str = shared_arguments.JOB_DIR
    seed: int = shared_arguments.SEED

    def __post_init__(self) -> None:
        check_fields(self)


def failed_trials_limit(max_failed_trials: int, max_trials: int) -> int:
    """Returns the number of failed trials after which the search ends.

    Args:
        max_failed_trials: The user's value; 0 = not given.
        max_trials: Total number of trials.
    """
    return max_failed_trials or min(max_trials, max(3, math.ceil(max_trials / 2)))
