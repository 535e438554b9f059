"""The options of the Python API, for type checkers; ``help(imgpipe.run)`` describes them.

Written by `make compile` from the code; do not edit.
"""

# fmt: off

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]


class ConvertOptions(TypedDict, total=False):
    images: Paths
    label_from: Literal["auto", "leaf", "top"]
    train_csv: Path
    columns: str
    image_root: Paths
    multi_label: bool
    validation_csv: Path
    test_csv: Path
    labels_file: Path
    decisions: Path
    training_data_path: Paths
    validation_data_path: Paths
    test_data_path: Paths
    validation_fraction: float
    test_fraction: float
    group_near_duplicates: bool
    max_rejected_fraction: float
    shard_megabytes: int
    max_image_pixels: int
    max_image_bytes: int
    seed: int


class ValidateOptions(TypedDict, total=False):
    num_classes: int
    multi_label: bool
    train_batch_size: int
    num_eval_images: int
    recipe: Literal["auto", "head-then-fine-tune", "frozen-backbone", "fine-tune", "from-scratch", "digits",
        "digits-efficientnet", "original"]
    model_type: Literal["auto", "resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152",
        "resnet-200", "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3",
        "efficientnet-b4", "efficientnet-b5", "efficientnet-b6", "efficientnet-b7", "mobilenet-v2",
        "efficientnet-v2-b0", "efficientnet-v2-b1", "efficientnet-v2-b2", "efficientnet-v2-b3",
        "efficientnet-v2-s", "efficientnet-v2-m", "efficientnet-v2-l", "mobilenet-v3-small",
        "mobilenet-v3-large", "convnext-tiny", "convnext-small"]
    weights: Literal["auto", "imagenet", "none"]
    freeze: str
    image_size: int
    evaluation_split: Literal["validation", "test"]
    max_image_pixels: int


class AuditOptions(TypedDict, total=False):
    audit_model_type: Literal["resnet-50", "resnet-101", "resnet-152", "efficientnet-b0", "efficientnet-b1",
        "efficientnet-b2", "efficientnet-b3", "efficientnet-b4", "efficientnet-b5", "efficientnet-b6",
        "efficientnet-b7", "mobilenet-v2", "efficientnet-v2-b0", "efficientnet-v2-b1", "efficientnet-v2-b2",
        "efficientnet-v2-b3", "efficientnet-v2-s", "efficientnet-v2-m", "efficientnet-v2-l",
        "mobilenet-v3-small", "mobilenet-v3-large", "convnext-tiny", "convnext-small"]
    max_image_pixels: int


class RunOptions(ConvertOptions, total=False):
    output_dir: Path
    job_dir: Path
    max_latency_ms: float
    export_formats: str
    export_max_accuracy_loss: float
    recipe: Literal["auto", "head-then-fine-tune", "frozen-backbone", "fine-tune", "from-scratch", "digits",
        "digits-efficientnet", "original"]
    max_minutes: float
    model_type: Literal["auto", "resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152",
        "resnet-200", "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3",
        "efficientnet-b4", "efficientnet-b5", "efficientnet-b6", "efficientnet-b7", "mobilenet-v2",
        "efficientnet-v2-b0", "efficientnet-v2-b1", "efficientnet-v2-b2", "efficientnet-v2-b3",
        "efficientnet-v2-s", "efficientnet-v2-m", "efficientnet-v2-l", "mobilenet-v3-small",
        "mobilenet-v3-large", "convnext-tiny", "convnext-small"]
    max_steps: int
    train_batch_size: int
    num_classes: int
    num_eval_images: int
    image_size: int
    resize: Literal["stretch", "crop", "letterbox"]
    weights: Literal["auto", "imagenet", "none"]
    pretrained_checkpoint_path: Path
    freeze: str
    augmentation: Literal["auto", "none", "crop-flip", "mild-crop-flip", "mild-crop", "randaugment"]
    mixup: float
    cutmix: float
    class_weights: Literal["none", "balanced", "sqrt"]
    label_set_coverage: float
    initial_learning_rate: float
    layer_decay: float
    warmup_steps: int
    warmup_learning_rate: float
    learning_rate_decay_type: Literal["cosine", "stepwise"]
    decay_steps: int
    stepwise_learning_rate_steps: str
    stepwise_learning_rate_levels: str
    optimizer_type: Literal["auto", "momentum", "adam", "rmsprop"]
    optimizer_arguments: str
    label_smoothing: float
    weight_decay: float
    ema: float
    train_steps_per_eval: int
    eval_batch_size: int
    early_stopping_patience: int
    max_duration: int
    mixed_precision: Literal["auto", "off", "bfloat16", "float16"]
    deterministic: bool
    keep_checkpoints: int
    serving_formats: Literal["jpeg,png,gif,bmp", "jpeg,png,gif,bmp,webp"]
    evaluation_split: Literal["validation", "test"]
    deploy_target: Literal["none", "local", "kserve", "vertex"]
    deploy_dir: Path
    deploy_name: str
    namespace: str
    project: str
    region: str
    vertex_endpoint: str
    champion: Path
    slices_csv: Path
    min_accuracy: float
    min_class_recall: float
    min_slice_accuracy: float
    tolerance: float
    canary_percent: int
    deploy_timeout_seconds: int
    allow_unverified: bool
    undeploy_old: bool
    serving_url: str
    serving_machine_type: str
    serving_accelerator_type: str
    serving_accelerator_count: int
    serving_min_replicas: int
    serving_max_replicas: int
    serving_spot: bool
    shared_endpoint: bool
    serving_image: str
    serving_service_account: str


class TuneOptions(RunOptions, total=False):
    hyperparameters: str
    max_trials: int
    max_parallel_trials: int
    max_failed_trials: int
    trial_early_stopping: Literal["auto", "on", "off"]
    search_algorithm: Literal["auto", "bayesian", "grid", "random"]
    resume_previous_job_id: Path
    trial_silence_limit: int
