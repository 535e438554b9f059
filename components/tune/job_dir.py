"""What a tuning writes into its job_dir."""

from pathlib import Path

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import URL, joined

# The search's memory.
STUDY_FOLDER = "study"
# A folder a trial: its checkpoints, log, evaluations.
TRIALS_FOLDER = "trials"
# Beside the trials' folders, while the search goes on: what they share of a frozen backbone.
FEATURES_FOLDER = "features"
TRIALS_FILE = "trials.json"
REPORT_FILE = "tuning.html"
# Below job_dir/model, as the original algorithm laid them: a SavedModel a trial.
TRIAL_MODEL_PREFIX = "trial_"

FILES_OF_TUNING = frozenset({STUDY_FOLDER, TRIALS_FOLDER, TRIALS_FILE, REPORT_FILE})


def trial_folder(job_dir: Path, trial_id: int | str) -> Path:
    """Returns the folder of a trial."""
    return job_dir / TRIALS_FOLDER / str(trial_id)


def trial_model(job_dir: Path, trial_id: int | str) -> Path:
    """Returns where a trial's best model is published."""
    return job_dir / "model" / f"{TRIAL_MODEL_PREFIX}{trial_id}"


def trial_location(job_dir: str, trial_id: str) -> str:
    """Returns the folder of a trial in a job_dir that may be ``gs://``."""
    return joined(job_dir, f"{TRIALS_FOLDER}/{trial_id}")


def trial_model_location(job_dir: str, trial_id: str) -> str:
    """Returns where a trial's best model is published in a job_dir that may be ``gs://``."""
    return joined(job_dir, f"model/{TRIAL_MODEL_PREFIX}{trial_id}")


def check_shared_with_pods(job_dir: str) -> None:
    """Refuses a job_dir that trials in pods of their own do not share with the step.

    Raises:
        InvalidArgumentError: if it is not in Cloud Storage.
    """
    if not is_cloud_path(job_dir):
        raise InvalidArgumentError(
            f"job_dir={job_dir!r}: the trials of tune_engine=katib run in pods that do not see this folder",
            remedy="give a gs:// job_dir, or tune_engine=local: the trials then run in the step's own pod",
        )


def check_on_this_machine(job_dir: str) -> None:
    """Refuses a job_dir in which a search on this machine cannot keep its memory.

    Raises:
        InvalidArgumentError: if it is in Cloud Storage, or another URL.
    """
    if URL.match(job_dir):
        raise InvalidArgumentError(
            f"job_dir={job_dir!r}: a search on this machine keeps its study and its trials' checkpoints in a "
            "local folder",
            remedy="give a local folder (or none: the artifact holds the models) and copy it afterwards; on "
            "Kubeflow give tune_engine=katib, or run on Vertex AI: those take gs://",
        )


def earlier_job_dir(named: str, job_dir: Path) -> Path:
    """Returns the job_dir of an earlier tuning: a path stays, a mere name is a folder beside ``job_dir``."""
    path = Path(named).expanduser()
    return path if len(path.parts) > 1 else job_dir.absolute().parent / path
