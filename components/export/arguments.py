"""The arguments of the export step."""

from dataclasses import dataclass

from components.common import shared_arguments
from components.common.arguments import argument, check_fields
from components.common.storage import local_path


@dataclass(frozen=True)
class ExportArguments:
    """Where the model goes, and what is asked of it."""

    job_dir: str = shared_arguments.job_dir()
    max_latency_ms: float = argument(
        0.0,
        "Longest time in milliseconds that a request of one image may take, at the 99th percentile, measured "
        "by the export step on its own machine; a slower model fails the step. 0 = no bound.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if job_dir is a URL, which this version does not write to.
        """
        check_fields(self)
        local_path(self.job_dir)
