"""The files and folders that a tuning run writes to its job_dir."""

from pathlib import Path
from typing import TypeVar

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage import Location, is_local

# Locations may be remote.
Folder = TypeVar("Folder", Path, Location)

# The persistent state of the search.
STUDY_FOLDER = "study"
# One folder per trial: checkpoints, log, evaluations.
TRIALS_FOLDER = "trials"
# In the trials folder during the search: features of a frozen backbone, shared by all trials.
FEATURES_FOLDER = "features"
TRIALS_FILE = "trials.json"
REPORT_FILE = "tuning.html"

FILES_OF_TUNING = frozenset({STUDY_FOLDER, TRIALS_FOLDER, TRIALS_FILE, REPORT_FILE})


def trial_folder(job_dir: Folder, trial_id: int | str) -> Folder:
    """Returns the folder of a trial."""
    return job_dir / TRIALS_FOLDER / str(trial_id)


def trial_model(job_dir: Folder, trial_id: int | str) -> Folder:
    """Returns where a trial's best model is published, as the original algorithm did."""
    return job_dir / "model" / f"trial_{trial_id}"


def check_shared_with_pods(job_dir: str) -> None:
    """Rejects a job_dir that trials in their own pods do not share with the step.

    Raises:
        InvalidArgumentError: if it is not in a bucket.
    """
    if is_local(job_dir):
        raise InvalidArgumentError(
            f"job_dir={job_dir!r}: with tune_engine=katib, trials run in their own pods and cannot access "
            "this folder",
            remedy="set job_dir to a gs:// or s3:// folder, or tune_engine=local to run the trials in the "
            "step's pod",
        )


def check_local(job_dir: str) -> None:
    """Rejects a job_dir that a run or a search on this machine cannot write to.

    Raises:
        InvalidArgumentError: if it is a URL.
    """
    if not is_local(job_dir):
        raise InvalidArgumentError(
            f"job_dir={job_dir!r}: a run on this machine writes to a local folder",
            remedy="use a local folder (or none: a new one is used) and copy it afterwards; for a bucket, "
            "use Vertex AI or Kubeflow, for a search with tune_engine=katib",
        )


def earlier_job_dir(name: str, job_dir: Path) -> Path:
    """Returns the job_dir of an earlier tuning run; a name without a path is a folder next to ``job_dir``."""
    path = Path(name).expanduser()
    return path if len(path.parts) > 1 else job_dir.absolute().parent / path
