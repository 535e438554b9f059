"""AI Platform's config.yaml: the resource TrainingInput, read and checked field by field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from components.common.fields_reader import FieldsReader, parse_yaml
from components.common.hyperparameters import Hyperparameters, read_hyperparameters

ROLES = ("master", "worker", "parameterServer", "evaluator")
_SCALE_TIERS = ("BASIC", "STANDARD_1", "PREMIUM_1", "BASIC_GPU", "BASIC_TPU", "CUSTOM")
_DISK_TYPES = ("pd-ssd", "pd-standard")
# Of the API, in GB.
_SMALLEST_DISK, _LARGEST_DISK = 100, 64_000
# Of the API, in seconds.
_SHORTEST_WAIT = 1800
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_MOST_LABELS = 64


@dataclass(frozen=True)
class ReplicaConfig:
    """How the containers of one role are made: ``masterConfig`` and its like.

    Attributes:
        image_uri: The container image; empty = ours.
        accelerator_type: As the user wrote it; empty for none.
        accelerator_count: GPUs or TPU cores.
        disk_type: ``pd-ssd``, ``pd-standard`` or empty.
        disk_gb: Of the boot disk; 0 = the default.
        command: Replaces the image's entry point; empty = our training.
        arguments: Go before the job's arguments.
        tpu_tf_version: Of TensorFlow on the TPU.
        tpu_topology: Ours, not AI Platform's: the slice of a TPU v5e, e.g. ``2x4``.
    """

    image_uri: str = ""
    accelerator_type: str = ""
    accelerator_count: int = 0
    disk_type: str = ""
    disk_gb: int = 0
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    tpu_tf_version: str = ""
    tpu_topology: str = ""


@dataclass(frozen=True)
class TrainingInput:
    """What a config.yaml says; the attributes are its fields.

    Attributes:
        machine_types: By role (``master``, ``worker``, ``parameterServer``, ``evaluator``).
        counts: Replicas by role, of those that were given.
        configs: By role.
        max_running_seconds: None if not given.
        max_wait_seconds: None if not given.
        labels: Of the job, which stand beside ``trainingInput``.
    """

    scale_tier: str = ""
    machine_types: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    configs: Mapping[str, ReplicaConfig] = field(default_factory=dict)
    hyperparameters: Hyperparameters | None = None
    arguments: tuple[str, ...] = ()
    job_id: str = ""
    region: str = ""
    job_dir: str = ""
    runtime_version: str = ""
    python_version: str = ""
    network: str = ""
    service_account: str = ""
    enable_web_access: bool = False
    kms_key_name: str = ""
    use_chief_in_tf_config: bool = False
    max_running_seconds: float | None = None
    max_wait_seconds: float | None = None
    priority: int = 0
    package_uris: tuple[str, ...] = ()
    python_module: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def config(self, role: str) -> ReplicaConfig:
        """Returns how the containers of a role are made."""
        return self.configs.get(role, ReplicaConfig())


def read_training_input(text: str, *, where: str) -> TrainingInput:
    """Reads a config.yaml.

    Args:
        text: YAML or JSON with ``trainingInput``, and perhaps ``jobId`` and ``labels``.
        where: The file's name, for errors.

    Raises:
        InvalidArgumentError: naming field, value, line and what is allowed.
    """
    content = parse_yaml(text, where=where)
    document = FieldsReader({} if content is None else content, "", where=where)
    job_id = document.text("jobId")
    labels = document.block("labels")
    block = document.block("trainingInput")
    document.finish()
    return _read_block(block, job_id, read_labels(labels))


def read_labels(block: FieldsReader) -> dict[str, str]:
    """Takes every field of a mapping as a label.

    Raises:
        InvalidArgumentError: for a key or value that Google Cloud does not take as a label.
    """
    labels = {name: block.text(name) for name in block.names()}
    if len(labels) > _MOST_LABELS:
        raise block.error("", len(labels), f"at most {_MOST_LABELS} labels")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise block.error(
                key,
                value,
                "a label",
                "use lower-case letters, digits, - and _, at most 63 of them; a key begins with a letter",
            )
    return labels


def _read_block(block: FieldsReader, job_id: str, labels: Mapping[str, str]) -> TrainingInput:
    machine_types, counts, configs = {}, {}, {}
    for role in ROLES:
        if machine_type := block.text(f"{role}Type"):
            machine_types[role] = machine_type
        if role != "master" and block.has(f"{role}Count"):
            counts[role] = block.integer(f"{role}Count", minimum=1)
        configs[role] = _read_config(block.block(f"{role}Config"))
    scheduling, encryption = block.block("scheduling"), block.block("encryptionConfig")
    max_wait = scheduling.seconds("maxWaitTime")
    if max_wait is not None and max_wait < _SHORTEST_WAIT:
        raise scheduling.error("maxWaitTime", f"{max_wait:g}s", f"at least {_SHORTEST_WAIT}s")
    hyperparameters = None
    if block.has("hyperparameters"):
        hyperparameters = read_hyperparameters(block.block("hyperparameters"))
    read = TrainingInput(
        scale_tier=block.choice("scaleTier", _SCALE_TIERS),
        machine_types=machine_types,
        counts=counts,
        configs=configs,
        hyperparameters=hyperparameters,
        arguments=block.texts("args"),
        job_id=job_id,
        region=block.text("region"),
        job_dir=block.text("jobDir"),
        runtime_version=block.text("runtimeVersion"),
        python_version=block.text("pythonVersion"),
        network=block.text("network"),
        service_account=block.text("serviceAccount"),
        enable_web_access=block.boolean("enableWebAccess"),
        kms_key_name=encryption.text("kmsKeyName"),
        use_chief_in_tf_config=block.boolean("useChiefInTfConfig"),
        max_running_seconds=scheduling.seconds("maxRunningTime"),
        max_wait_seconds=max_wait,
        priority=scheduling.integer("priority"),
        package_uris=block.texts("packageUris"),
        python_module=block.text("pythonModule"),
        labels=labels,
    )
    for one in (scheduling, encryption, block):
        one.finish()
    return read


def _read_config(block: FieldsReader) -> ReplicaConfig:
    accelerator, disk = block.block("acceleratorConfig"), block.block("diskConfig")
    config = ReplicaConfig(
        image_uri=block.text("imageUri"),
        accelerator_type=accelerator.text("type"),
        accelerator_count=accelerator.integer("count"),
        disk_type=disk.choice("bootDiskType", _DISK_TYPES),
        disk_gb=disk.integer("bootDiskSizeGb", minimum=_SMALLEST_DISK, maximum=_LARGEST_DISK),
        command=block.texts("containerCommand"),
        arguments=block.texts("containerArgs"),
        tpu_tf_version=block.text("tpuTfVersion"),
        tpu_topology=block.text("tpuTopology"),
    )
    for one in (accelerator, disk, block):
        one.finish()
    return config


def with_flags(config: TrainingInput, flags: Mapping[str, Any]) -> TrainingInput:
    """Returns the config with what the command line says instead, as gcloud does.

    Args:
        config: What the file says.
        flags: Attributes of ``TrainingInput`` by name; ``labels`` are added to the file's.
    """
    merged = {**config.__dict__, **flags}
    merged["labels"] = {**config.labels, **flags.get("labels", {})}
    for name in ("machine_types", "counts", "configs"):
        merged[name] = {**getattr(config, name), **flags.get(name, {})}
    return TrainingInput(**merged)
