"""AI Platform's config.yaml: the resource TrainingInput, read and checked field by field."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.fields_reader import FieldsReader, parse_yaml
from imgpipe.components.common.hyperparameters import Hyperparameters, read_hyperparameters
from imgpipe.components.platforms.vertex.job_requests import JOB_LABEL, REQUEST_LABEL, RUN_LABEL

ROLES = ("master", "worker", "parameterServer", "evaluator")
_SCALE_TIERS = ("BASIC", "BASIC_GPU", "BASIC_TPU", "CUSTOM")
# AI Platform had them; imgpipe.pipelines.machines says why they are refused.
_REFUSED_SCALE_TIERS = ("STANDARD_1", "PREMIUM_1")
_DISK_TYPES = ("pd-ssd", "pd-standard")
# Of the API, in GB.
_SMALLEST_DISK, _LARGEST_DISK = 100, 64_000
# Of the API, in seconds.
_SHORTEST_WAIT = 1800
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_OWN_LABELS = (JOB_LABEL, REQUEST_LABEL, RUN_LABEL)
# The API takes 64.
_MOST_LABELS = 64 - len(_OWN_LABELS)
# They stand beside the block.
_BESIDE = ("jobId", "labels")
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
# Fields that are often written a level too high or too low, by the place where they belong.
_PLACES = {
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
_BELONGS: Mapping[str, str] = MappingProxyType(
    {name: place for place, names in _PLACES.items() for name in names}
)


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
        written: Flags by the names of the fields that the command line gave, or alone can give.
        file: Which says it; empty = none does.
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
    written: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    file: str = ""

    def name(self, path: str) -> str:
        """Returns what the user wrote for a field: the flag, or its whole path in the file."""
        if path in self.written:
            return self.written[path]
        return f"trainingInput.{path}" if _FIELD.fullmatch(path) and path not in _BESIDE else path

    def where(self, path: str) -> str:
        """Returns the file if a field is written there, and "" if it is on the command line."""
        return "" if path in self.written else self.file

    def setting(self, path: str, value: str) -> str:
        """Returns how the user would write a value of a field."""
        return f"{self.written[path]}={value}" if path in self.written else f"{path}: {value}"

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
    # The block first: it knows which names belong below it.
    read = _read_block(block, job_id, _labels_of(labels))
    document.finish({**_BELONGS, **dict.fromkeys(block.known(), "below trainingInput")})
    return read


def _labels_of(block: FieldsReader) -> dict[str, str]:
    labels = {name: block.text(name) for name in block.names()}
    check_labels(labels, name="labels", where=block.where)
    return labels


def check_labels(labels: Mapping[str, str], *, name: str, where: str = "") -> None:
    """Refuses what Google Cloud does not take as labels.

    Args:
        labels: Values by key.
        name: What the user wrote them as, e.g. ``--labels``.
        where: The file.

    Raises:
        InvalidArgumentError: naming the label that is wrong.
    """
    if len(labels) > _MOST_LABELS:
        raise InvalidArgumentError(
            f"{name} has {len(labels)} labels", where=where, remedy=f"give {_MOST_LABELS} at most"
        )
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidArgumentError(
                f"{name}.{key}={value!r} is not a label",
                where=where,
                remedy="use lower-case letters, digits, - and _, at most 63 of them; a key begins with a "
                "letter",
            )
        if key in _OWN_LABELS:
            raise InvalidArgumentError(
                f"{name}.{key}={value!r}: imgpipe finds its jobs again by this label",
                where=where,
                remedy="give it another key",
            )


def _read_block(block: FieldsReader, job_id: str, labels: Mapping[str, str]) -> TrainingInput:
    machine_types, counts, configs = {}, {}, {}
    for role in ROLES:
        if machine_type := block.text(f"{role}Type"):
            machine_types[role] = machine_type
        # As the API has it: zero is none.
        if role != "master" and (count := block.integer(f"{role}Count", minimum=0)):
            counts[role] = count
        configs[role] = _read_config(block.block(f"{role}Config"))
    scheduling, encryption = block.block("scheduling"), block.block("encryptionConfig")
    max_wait = scheduling.seconds("maxWaitTime")
    if max_wait is not None and max_wait < _SHORTEST_WAIT:
        raise scheduling.error("maxWaitTime", f"{max_wait:g}s", f"at least {_SHORTEST_WAIT}s")
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
    for one in (scheduling, encryption, block):
        one.finish(_BELONGS)
    return read


def _scale_tier(block: FieldsReader) -> str:
    tier = block.text("scaleTier")
    return tier if tier in _REFUSED_SCALE_TIERS else block.choice("scaleTier", _SCALE_TIERS)


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
        one.finish(_BELONGS)
    return config


def with_flags(
    config: TrainingInput, flags: Mapping[str, Any], *, written: Mapping[str, str] | None = None
) -> TrainingInput:
    """Returns the config with what the command line says instead, as gcloud does.

    Args:
        config: What the file says.
        flags: Attributes of ``TrainingInput`` by name; ``labels`` are added to the file's.
        written: As in ``TrainingInput``; None = as the config has it.
    """
    merged = {**config.__dict__, **flags}
    if written is not None:
        merged["written"] = written
    merged["labels"] = {**config.labels, **flags.get("labels", {})}
    for name in ("machine_types", "counts", "configs"):
        merged[name] = {**getattr(config, name), **flags.get(name, {})}
    return TrainingInput(**merged)
