"""Reads AI Platform's config.yaml, the resource TrainingInput, and checks every field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.common.hyperparameters import Hyperparameters, read_hyperparameters
from imgpipe.components.platforms.vertex.job_requests import JOB_LABEL, REQUEST_LABEL, RUN_LABEL
from imgpipe.pipelines.machines import REJECTED_SCALE_TIERS, SCALE_TIERS

ROLES = ("master", "worker", "parameterServer", "evaluator")
_DISK_TYPES = ("pd-ssd", "pd-standard")
# Limits of the API.
_MIN_DISK_GB, _MAX_DISK_GB = 100, 64_000
_MIN_WAIT_SECONDS = 1800
MAX_REPLICAS = 1000
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_OWN_LABELS = (JOB_LABEL, REQUEST_LABEL, RUN_LABEL)
# The API's limit is 64.
_MAX_LABELS = 64 - len(_OWN_LABELS)
# Fields at the top level, beside trainingInput.
_TOP_LEVEL = ("jobId", "labels")
_FIELD = re.compile(r"[A-Za-z]+(\.[A-Za-z]+)*")
# gcloud's flag for a field.
FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "scaleTier": "--scale-tier",
        **{
            field: flag
            for role, option in (
                ("master", "--master"),
                ("worker", "--worker"),
                ("parameterServer", "--parameter-server"),
            )
            for field, flag in (
                (f"{role}Type", f"{option}-machine-type"),
                (f"{role}Config.imageUri", f"{option}-image-uri"),
                (f"{role}Config.acceleratorConfig", f"{option}-accelerator"),
            )
        },
        "workerCount": "--worker-count",
        "parameterServerCount": "--parameter-server-count",
        "region": "--region",
        "jobDir": "--job-dir",
        "network": "--network",
        "serviceAccount": "--service-account",
        "encryptionConfig.kmsKeyName": "--kms-key",
        "labels": "--labels",
        "runtimeVersion": "--runtime-version",
        "pythonVersion": "--python-version",
        "enableWebAccess": "--enable-web-access",
        "useChiefInTfConfig": "--use-chief-in-tf-config",
    }
)
# Fields that are often written at the wrong level, by their correct location.
_LOCATIONS = {
    "below masterConfig or workerConfig": (
        *("imageUri", "acceleratorConfig", "diskConfig", "containerCommand", "containerArgs"),
        *("tpuTfVersion", "tpuTopology"),
    ),
    "below diskConfig of masterConfig or workerConfig": ("bootDiskType", "bootDiskSizeGb"),
    "below scheduling": ("maxRunningTime", "maxWaitTime", "priority"),
    "below encryptionConfig": ("kmsKeyName",),
    "below hyperparameters": (
        *("goal", "algorithm", "maxTrials", "maxParallelTrials", "maxFailedTrials", "params"),
        *("hyperparameterMetricTag", "enableTrialEarlyStopping", "resumePreviousJobId"),
    ),
    "beside trainingInput": ("jobId", "labels"),
}
_FIELD_LOCATIONS: Mapping[str, str] = MappingProxyType(
    {name: location for location, names in _LOCATIONS.items() for name in names}
)


@dataclass(frozen=True)
class ReplicaConfig:
    """The containers of one role, e.g. ``masterConfig``.

    Attributes:
        image_uri: The container image; empty = ours.
        accelerator_type: As the user wrote it; empty for none.
        accelerator_count: Number of GPUs or TPU cores.
        disk_type: ``pd-ssd``, ``pd-standard`` or empty.
        disk_gb: Size of the boot disk; 0 = the default.
        command: Replaces the image's entry point; empty = our training.
        arguments: Precede the job's arguments.
        tpu_tf_version: TensorFlow version on the TPU.
        tpu_topology: Topology of a TPU v5e slice, e.g. ``2x4``; our addition to AI Platform's fields.
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
    """The contents of a config.yaml; the attributes are its fields.

    Attributes:
        machine_types: By role (``master``, ``worker``, ``parameterServer``, ``evaluator``).
        counts: Replicas by role, of those that were given.
        configs: By role.
        max_running_seconds: None if not given.
        max_wait_seconds: None if not given.
        labels: Labels of the job, at the top level.
        allow_unknown_machine: Whether machines that are not in our table are sent as they are; a flag.
        written: Flags by field name: fields that the command line set, or that only a flag can set.
        file: Path of the config.yaml; empty = none.
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
    allow_unknown_machine: bool = False
    written: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    file: str = ""

    def name(self, path: str) -> str:
        """Returns how the user wrote a field: the flag, or its full path in the file."""
        if path in self.written:
            return self.written[path]
        return f"trainingInput.{path}" if _FIELD.fullmatch(path) and path not in _TOP_LEVEL else path

    def where(self, path: str) -> str:
        """Returns the file if it sets the field, and "" if the command line does."""
        return "" if path in self.written else self.file

    def setting(self, path: str, value: str) -> str:
        """Returns how the user would set a field to a value."""
        return f"{self.written[path]}={value}" if path in self.written else f"{path}: {value}"

    def config(self, role: str) -> ReplicaConfig:
        """Returns the containers of a role."""
        return self.configs.get(role, ReplicaConfig())


def read_training_input(text: str, *, where: str) -> TrainingInput:
    """Reads a config.yaml.

    Args:
        text: YAML or JSON with ``trainingInput``, optionally ``jobId`` and ``labels``.
        where: Path of the file, for errors.

    Raises:
        InvalidArgumentError: naming field, value, line and what is allowed.
    """
    content = parse_yaml(text, where=where)
    document = FieldsReader({} if content is None else content, "", where=where)
    job_id = document.text("jobId")
    labels = document.block("labels")
    block = document.block("trainingInput")
    # Read first, because it knows its field names.
    read = _read_block(block, job_id, _read_labels(labels))
    document.finish({**_FIELD_LOCATIONS, **dict.fromkeys(block.known(), "below trainingInput")})
    return read


def _read_labels(block: FieldsReader) -> dict[str, str]:
    labels = {name: block.text(name) for name in block.fields}
    check_labels(labels, name="labels", where=block.where)
    return labels


def check_labels(labels: Mapping[str, str], *, name: str, where: str = "") -> None:
    """Rejects labels that are not valid on Google Cloud.

    Args:
        labels: Values by key.
        name: How the user wrote the argument, e.g. ``--labels``.
        where: The file that contains them.

    Raises:
        InvalidArgumentError: naming the label that is wrong.
    """
    if len(labels) > _MAX_LABELS:
        raise InvalidArgumentError(
            f"{name} has {len(labels)} labels",
            where=where,
            remedy=f"use at most {_MAX_LABELS}",
        )
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidArgumentError(
                f"{name}.{key}={value!r} is not a valid label",
                where=where,
                remedy="use up to 63 lower-case letters, digits, - and _; begin a key with a letter",
            )
        if key in _OWN_LABELS:
            raise InvalidArgumentError(
                f"{name}.{key}={value!r}: imgpipe uses this label to find its jobs",
                where=where,
                remedy="use another key",
            )


def _read_block(block: FieldsReader, job_id: str, labels: Mapping[str, str]) -> TrainingInput:
    machine_types, counts, configs = {}, {}, {}
    for role in ROLES:
        if machine_type := block.text(f"{role}Type"):
            machine_types[role] = machine_type
        # As in the API, zero means none.
        if role != "master" and (count := block.integer(f"{role}Count", maximum=MAX_REPLICAS)):
            counts[role] = count
        configs[role] = _read_config(block.block(f"{role}Config"))
    scheduling, encryption = block.block("scheduling"), block.block("encryptionConfig")
    max_wait = scheduling.seconds("maxWaitTime")
    if max_wait is not None and max_wait < _MIN_WAIT_SECONDS:
        raise scheduling.error("maxWaitTime", f"{max_wait:g}s", f"at least {_MIN_WAIT_SECONDS}s")
    hyperparameters = None
    if block.has("hyperparameters"):
        hyperparameters = read_hyperparameters(block.block("hyperparameters"))
    read = TrainingInput(
        scale_tier=_scale_tier(block),
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
        file=block.where,
    )
    for reader in (scheduling, encryption, block):
        reader.finish(_FIELD_LOCATIONS)
    return read


def _scale_tier(block: FieldsReader) -> str:
    tier = block.text("scaleTier")
    return tier if tier in REJECTED_SCALE_TIERS else block.choice("scaleTier", (*SCALE_TIERS, "CUSTOM"))


def _read_config(block: FieldsReader) -> ReplicaConfig:
    accelerator, disk = block.block("acceleratorConfig"), block.block("diskConfig")
    config = ReplicaConfig(
        image_uri=block.text("imageUri"),
        accelerator_type=accelerator.text("type"),
        accelerator_count=accelerator.integer("count"),
        disk_type=disk.choice("bootDiskType", _DISK_TYPES),
        disk_gb=disk.integer("bootDiskSizeGb", minimum=_MIN_DISK_GB, maximum=_MAX_DISK_GB),
        command=block.texts("containerCommand"),
        arguments=block.texts("containerArgs"),
        tpu_tf_version=block.text("tpuTfVersion"),
        tpu_topology=block.text("tpuTopology"),
    )
    for reader in (accelerator, disk, block):
        reader.finish(_FIELD_LOCATIONS)
    return config


def with_overrides(
    config: TrainingInput, flags: Mapping[str, Any], *, written: Mapping[str, str] | None = None
) -> TrainingInput:
    """Returns the config with the fields that the command line overrides, as in gcloud.

    Args:
        config: The contents of the file.
        flags: Attributes of ``TrainingInput`` by name; ``labels`` are added to the file's.
        written: See ``TrainingInput``; None = unchanged.
    """
    merged = {**config.__dict__, **flags}
    if written is not None:
        merged["written"] = written
    merged["labels"] = {**config.labels, **flags.get("labels", {})}
    for name in ("machine_types", "counts", "configs"):
        merged[name] = {**getattr(config, name), **flags.get(name, {})}
    return TrainingInput(**merged)
