"""The arguments of the export step."""

from dataclasses import dataclass

from components.common import shared_arguments
from components.common.arguments import check_fields
from components.common.storage import local_path


@dataclass(frozen=True)
class ExportArguments:
    """Where the model goes."""

    job_dir: str = shared_arguments.job_dir()

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if job_dir is a URL, which this version does not write to.
        """
        check_fields(self)
        local_path(self.job_dir)
