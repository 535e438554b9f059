"""What a tuning writes into its job_dir."""

from pathlib import Path

# The search's memory.
STUDY_FOLDER = "study"
# A folder a trial: its checkpoints, log, evaluations.
TRIALS_FOLDER = "trials"
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
