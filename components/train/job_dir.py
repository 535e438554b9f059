"""The files that a training run writes to its job_dir besides the model."""

CHECKPOINTS_FOLDER = "checkpoints"
# One JSON object for each evaluation.
METRICS_FILE = "metrics.jsonl"
# The same values for TensorBoard.
TENSORBOARD_FOLDER = "tensorboard"
# The networks that were compared, and the selected one.
RACE_FILE = "model_race.json"

FILES_OF_TRAINING = frozenset({CHECKPOINTS_FOLDER, METRICS_FILE, TENSORBOARD_FOLDER, RACE_FILE})
