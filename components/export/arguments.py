"""The arguments of the export step."""

from dataclasses import dataclass

from components.common import shared_arguments
from components.common.arguments import argument, check_fields
from components.common.storage import absolute_location


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
            InvalidArgumentError: if job_dir is a URL other than gs://.
        """
        check_fields(self)
        if self.job_dir:
            absolute_location(self.job_dir)
