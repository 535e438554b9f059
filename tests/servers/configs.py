"""Configs and arguments from the documentation of the original algorithm, with example names."""

# As documented, but without the registry of the image.
TPU_CONFIG = """
trainingInput:
  # Use a cluster with many workers and a few parameter servers.
  scaleTier: CUSTOM
  masterType: n1-highmem-16
  masterConfig:
    imageUri: cloud-ml-algos/image_classification:latest
  workerType:  cloud_tpu
  workerConfig:
   imageUri: cloud-ml-algos/image_classification:latest
   acceleratorConfig:
     type: TPU_V2
     count: 8
  workerCount: 1
"""

TUNING_CONFIG = (
    TPU_CONFIG.replace("   acceleratorConfig", "   tpuTfVersion: 1.14\n   acceleratorConfig")
    + """  # The following are hyperparameter configs.
  hyperparameters:
   goal: MAXIMIZE
   hyperparameterMetricTag: top_1_accuracy
   maxTrials: 6
   maxParallelTrials: 3
   enableTrialEarlyStopping: True
   params:
   - parameterName: initial_learning_rate
     type: DOUBLE
     minValue: 0.001
     maxValue: 0.2
     scaleType: UNIT_LOG_SCALE
"""
)

JOB_ID = "flowers_image_classification_20261123_101010"

ARGUMENTS = [
    "--training_data_path=gs://bucket/data/train-*.tfrecord",
    "--validation_data_path=gs://bucket/data/eval-*.tfrecord",
    f"--job-dir=gs://bucket/algorithm_training/{JOB_ID}",
    "--max_steps=30000",
    "--train_batch_size=128",
    "--num_classes=5",
    "--num_eval_images=100",
    "--initial_learning_rate=0.128",
    "--warmup_steps=1000",
    "--model_type=efficientnet-b4",
]
