"""What a training writes into its job_dir, besides the model."""

# What an interrupted training goes on from.
CHECKPOINTS_FOLDER = "checkpoints"
# One JSON object for each evaluation.
METRICS_FILE = "metrics.jsonl"
# The same for TensorBoard.
TENSORBOARD_FOLDER = "tensorboard"

FILES_OF_TRAINING = frozenset({CHECKPOINTS_FOLDER, METRICS_FILE, TENSORBOARD_FOLDER})
