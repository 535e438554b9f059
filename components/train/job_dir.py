"""The files that a training writes to its job_dir besides the model."""

CHECKPOINTS_FOLDER = "checkpoints"
# One JSON object for each evaluation.
METRICS_FILE = "metrics.jsonl"
# The same values for TensorBoard.
TENSORBOARD_FOLDER = "tensorboard"

FILES_OF_TRAINING = frozenset({CHECKPOINTS_FOLDER, METRICS_FILE, TENSORBOARD_FOLDER})
