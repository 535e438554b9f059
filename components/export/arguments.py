"""The arguments of the export step."""

from dataclasses import dataclass

from components.common.arguments import argument, check_fields
from components.common.storage import local_path


@dataclass(frozen=True)
class ExportArguments:
    """Where the model goes."""

    job_dir: str = argument(
        "",
        "Folder for the run's output: job_dir/model gets the checked SavedModel. "
        "Empty = the model is only an artifact of the run.",
    )

    def __post_init__(self) -> None:
        """Checks every value.

        Raises:
            InvalidArgumentError: if job_dir is a URL, which this version does not write to.
        """
        check_fields(self)
        local_path(self.job_dir)
