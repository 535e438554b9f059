"""Converts the command line and config.yaml of ``gcloud ai-platform jobs submit training``.

``plan_job`` checks the submission; ``vertex_request`` converts it to a CustomJob or HyperparameterTuningJob,
``pipeline_parameters`` to parameters of the pipeline for Kubeflow and for this machine. Every field of the
config takes effect, or a notice says why it is ignored.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.arguments import flat_fields, from_values, parse_command_line
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.hyperparameters import check_tuned_arguments
from imgpipe.components.common.image_name import check_image
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.platforms.kubernetes.pod_rules import is_subdomain
from imgpipe.components.platforms.vertex.client import check_region
from imgpipe.components.platforms.vertex.job_requests import (
    FLEX_START,
    STANDARD,
    container_spec,
    custom_job,
    digest,
    job_spec,
    tuning_job,
    worker_pool_spec,
)
from imgpipe.components.preflight.target_rules import check_paths
from imgpipe.components.storage import is_local, uri_of_mounted
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.recipes import ORIGINAL
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.katib_arguments import KATIB, LOCAL
from imgpipe.components.tune.search_space import largest_batch_size, read_request
from imgpipe.pipelines.kubernetes_machines import kubernetes_parameters
from imgpipe.pipelines.machines import (
    Machine,
    check_pools,
    machine_of_scale_tier,
    resolve,
    vcpus_and_memory,
)
from imgpipe.pipelines.target_inputs import overridden_notices
from imgpipe.pipelines.training_input import ReplicaConfig, TrainingInput

# The original algorithm's image in any registry: our training replaces it.
_ORIGINAL_IMAGE = re.compile(r"(^|/)cloud-ml-algos/image_classification\b")
_JOB_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_NETWORK = re.compile(r"projects/[0-9]+/global/networks/[^/]+")
_KMS_KEY = re.compile(r"projects/[^/]+/locations/([^/]+)/keyRings/[^/]+/cryptoKeys/[^/]+")
_FLEX_START_GPUS = (
    *("NVIDIA_L4", "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB", "NVIDIA_H100_MEGA_80GB"),
    *("NVIDIA_H200_141GB", "NVIDIA_B200"),
)
_FLEX_START_SECONDS = 604_800
_SERVICE_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
# A command line with no other arguments is one of the original algorithm.
_ORIGINAL_ARGUMENTS = frozenset(
    {
        *("training_data_path", "validation_data_path", "job_dir", "num_classes", "max_steps"),
        *("train_batch_size", "num_eval_images", "pretrained_checkpoint_path", "learning_rate_decay_type"),
        *("warmup_learning_rate", "warmup_steps", "initial_learning_rate", "stepwise_learning_rate_steps"),
        *("stepwise_learning_rate_levels", "optimizer_type", "optimizer_arguments", "image_size"),
        *("model_type", "label_smoothing", "weight_decay", "eval_batch_size", "decay_steps"),
        "train_steps_per_eval",
    }
)
_RANDOM_WEIGHTS = "the training starts from random weights, as that of the original algorithm did; "
_WITH_IMAGENET = (
    "with --weights=imagenet it starts from weights trained on ImageNet and needs far fewer images and steps"
)
# Each trial of a tuning run has its own folder in job_dir.
_MODULE = {False: "imgpipe.components.train", True: "imgpipe.components.tune.remote_trial"}


def _like_pipeline_input(name: str) -> Any:
    pipeline_input = flat_fields([ConvertArguments, ExportArguments])[name]
    return dataclasses.field(default="", metadata=pipeline_input.metadata)


@dataclass(frozen=True)
class JobPaths:
    """The inputs and output of a job."""

    training_data_path: str = _like_pipeline_input("training_data_path")
    validation_data_path: str = _like_pipeline_input("validation_data_path")
    labels_file: str = _like_pipeline_input("labels_file")
    job_dir: str = _like_pipeline_input("job_dir")


JOB_ARGUMENTS = (JobPaths, TrainingArguments)


@dataclass(frozen=True)
class Pool:
    """Identical machines.

    Attributes:
        machine: The machine of each replica.
        replicas: Number of machines.
        config: Their containers; an empty ``image_uri`` means our image.
    """

    machine: Machine
    replicas: int
    config: ReplicaConfig


@dataclass(frozen=True)
class TrainingJob:
    """A job with all arguments checked.

    Attributes:
        job_id: The job id.
        args: The training's arguments as the user wrote them, ``--name=value``.
        values: The same arguments by name, typed.
        pools: The first has one replica, the chief.
        config: The contents of config.yaml and flags.
        strategy: One of ``STRATEGIES``.
        notices: Sentences that say what was replaced or ignored, and why.
    """

    job_id: str
    args: tuple[str, ...]
    values: Mapping[str, Any]
    pools: tuple[Pool, ...]
    config: TrainingInput
    strategy: str = STANDARD
    notices: tuple[str, ...] = ()


@dataclass
class _Notices:
    """Collects notices to the user; fields have the names that the user wrote."""

    config: TrainingInput
    texts: list[str] = field(default_factory=list)

    def ignored(self, name: str, reason: str) -> None:
        verb = "are" if " and " in name else "is"
        self.texts.append(f"{self.config.name(name)} {verb} ignored: {reason}")


def plan_job(
    job_id: str,
    args: Sequence[str],
    config: TrainingInput,
    *,
    arguments_classes: Sequence[type[Any]] = JOB_ARGUMENTS,
    strategy: str = STANDARD,
    resumes: bool = False,
    on_kubernetes: bool = False,
) -> TrainingJob:
    """Checks a submission: machines, arguments, search space.

    Args:
        job_id: The job id.
        args: The arguments after ``--``.
        config: The contents of config.yaml and of the command line's flags.
        arguments_classes: The dataclasses whose fields are allowed arguments.
        strategy: How Vertex AI provides machines: one of ``STRATEGIES``.
        resumes: Whether a tuning run can continue an earlier one; only on this machine.
        on_kubernetes: Whether a Kubernetes service account is allowed.

    Raises:
        InvalidArgumentError: naming the field or flag, its value, and the remedy.
    """
    check_job_id(job_id)
    notices = _Notices(config)
    with _locate_errors(config.file):
        pools = _pools(config, notices)
    command_line = ", or the arguments after `--`" if args else ""
    with _locate_errors(f"args in {config.file}{command_line}" if config.file and config.arguments else ""):
        args, values = _merge_arguments(args, config, arguments_classes, notices)
        space = config.hyperparameters.parameters if config.hyperparameters else ()
        tuned = {parameter.name for parameter in space}
        if {*values, *tuned} <= _ORIGINAL_ARGUMENTS and not values.get("pretrained_checkpoint_path"):
            args.append("--weights=none")
            values["weights"] = "none"
            network = values.get("model_type", "")
            has_none = network in MODEL_TYPES and not MODEL_TYPES[network].has_imagenet_weights
            notices.texts.append(
                _RANDOM_WEIGHTS
                + (f"--weights=imagenet is not available for {network}" if has_none else _WITH_IMAGENET)
            )
        training = from_values(TrainingArguments, values)
    if config.hyperparameters:
        fixed = {name: getattr(training, name) for name in flat_fields([TrainingArguments])}
        check_tuned_arguments(
            config.hyperparameters, TrainingArguments, fixed, where=config.file or "hyperparameters"
        )
        for name in sorted(tuned & set(values)):
            notices.ignored(f"--{name}={values[name]}", "the tuning sets it in every trial")
        args = [arg for arg in args if _name_of(arg) not in tuned]
        values = {name: value for name, value in values.items() if name not in tuned}
    _check_resource_names(config, on_kubernetes=on_kubernetes)
    _note_ignored_fields(config, notices, resumes=resumes)
    if config.max_wait_seconds is not None and strategy != FLEX_START:
        notices.ignored(
            "scheduling.maxWaitTime",
            "Vertex AI limits the wait for machines only with --strategy=flex-start",
        )
    if strategy == FLEX_START:
        _check_flex_start(config, pools)
    return TrainingJob(job_id, tuple(args), values, pools, config, strategy, tuple(notices.texts))


def _check_flex_start(config: TrainingInput, pools: Sequence[Pool]) -> None:
    """Rejects what Vertex AI's documentation of Dynamic Workload Scheduler excludes.

    https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws
    """
    machines = [pool.machine for pool in pools]
    for machine in machines:
        is_known = machine.kind != "gpu" or vcpus_and_memory(machine.machine_type) is not None
        if is_known and machine.accelerator_type not in _FLEX_START_GPUS:
            raise InvalidArgumentError(
                f"--strategy=flex-start is only for the GPUs L4, A100, H100, H200 and B200, not {machine}",
                remedy="use --strategy=standard or spot, or one of these GPUs, e.g. g2-standard-8",
            )
    if len({(pool.machine, pool.config.disk_type, pool.config.disk_gb) for pool in pools}) > 1:
        raise InvalidArgumentError(
            "--strategy=flex-start needs equal machines in all pools, not "
            + " and ".join(map(str, machines)),
            remedy=f"set {config.name('workerType')} and its accelerators and disks as the master's",
        )
    if (config.max_running_seconds or 0) > _FLEX_START_SECONDS:
        raise InvalidArgumentError(
            f"{config.name('scheduling.maxRunningTime')} is {config.max_running_seconds:.0f} s, but with "
            "--strategy=flex-start a job runs for at most seven days",
            where=config.where("scheduling.maxRunningTime"),
            remedy=f"set it to at most {_FLEX_START_SECONDS}s: a later job resumes from the checkpoints",
        )


@contextmanager
def _locate_errors(where: str) -> Iterator[None]:
    """Sets ``where`` of the block's errors unless they have one."""
    try:
        yield
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.problem, where=error.where or where, remedy=error.remedy) from None


def check_job_id(job_id: str, what: str = "the job id") -> None:
    """Rejects a name that is not valid on every target.

    Raises:
        InvalidArgumentError: naming it as ``what``.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise InvalidArgumentError(
            f"{what} {job_id!r} is not allowed",
            remedy="use up to 128 letters, digits, - and _; begin with a letter",
        )


def vertex_request(job: TrainingJob, image_of: Callable[[Machine], str]) -> tuple[str, dict[str, Any]]:
    """Returns ``CustomJob``, or ``HyperparameterTuningJob`` if something is tuned, and the request's body.

    The body is the resource in the JSON form of Vertex AI's REST API.

    Args:
        job: Result of ``plan_job``.
        image_of: Returns our training image for a machine.

    Raises:
        InvalidArgumentError: if there is no region, or a path is not in a bucket.
    """
    config = job.config
    check_config_region(config)
    check_paths("vertex", job.values)
    spec = job_spec(
        [
            {
                **pool_spec,
                "containerSpec": container_spec(
                    pool.config.image_uri or image_of(pool.machine),
                    pool.config.command or ["python", "-m", _MODULE[config.hyperparameters is not None]],
                    [*pool.config.arguments, *job.args],
                    pool_spec["machineSpec"],
                    job.job_id,
                ),
            }
            for pool, pool_spec in zip(job.pools, map(_worker_pool_spec, job.pools), strict=True)
        ],
        strategy=job.strategy,
        timeout_seconds=config.max_running_seconds,
        max_wait_seconds=config.max_wait_seconds,
        service_account=config.service_account,
        network=config.network,
        enable_web_access=config.enable_web_access,
        output_uri=uri_of_mounted(job.values["job_dir"]),
    )
    labels_and_key = {
        "job_label": job_label(job.job_id),
        "labels": config.labels,
        "encryption_key": config.kms_key_name,
    }
    if config.hyperparameters is None:
        return "CustomJob", custom_job(job.job_id, spec, **labels_and_key)
    return "HyperparameterTuningJob", tuning_job(job.job_id, spec, config.hyperparameters, **labels_and_key)


def check_config_region(config: TrainingInput) -> None:
    """Rejects an invalid region, and an encryption key of another one: Vertex AI uses none.

    Raises:
        InvalidArgumentError: naming the region, or both regions.
    """
    check_region(config.region, name=config.name("region"), where=config.where("region"))
    key = _KMS_KEY.fullmatch(config.kms_key_name)
    if key and key[1] != config.region:
        raise InvalidArgumentError(
            f"{config.name('encryptionConfig.kmsKeyName')} is a key in {key[1]}, but the job is in "
            f"{config.region}",
            where=config.where("encryptionConfig.kmsKeyName"),
            remedy=f"use a key in {config.region}, or the region {key[1]}",
        )


def job_label(job_id: str) -> str:
    """Converts a job id to the value of a label: short, in lower case, and unique to the job id."""
    if re.fullmatch(r"[a-z0-9_-]{1,63}", job_id):
        return job_id
    return f"{job_id.lower()[:50]}-{digest(job_id, 12)}"


def pipeline_parameters(
    job: TrainingJob,
    target: str,
    image_of: Callable[[Machine], str],
    target_inputs: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the parameters of the pipeline for Kubeflow or this machine, and notices.

    If something is tuned, the pipeline is image-classification-tune. On Kubeflow, Katib runs each trial on
    the training's machine if job_dir is in a bucket; otherwise the tune step runs them on that machine.

    Args:
        job: Result of ``plan_job``.
        target: ``kubeflow`` or ``local``.
        image_of: Returns our training image for a machine.
        target_inputs: Result of ``parse_target_inputs``; overrides the parameters of the job's machine.

    Raises:
        InvalidArgumentError: if the target does not support the job.
    """
    config = job.config
    notices = _Notices(config)
    parameters = {"recipe": ORIGINAL, **job.values, **_tuning_parameters(job)}
    vertex_only = {
        "network": config.network,
        "enableWebAccess": config.enable_web_access,
        "encryptionConfig.kmsKeyName": config.kms_key_name,
        "region": config.region,
        "scheduling.maxRunningTime": config.max_running_seconds,
        "labels": ", ".join(config.labels),
    }
    for name, value in vertex_only.items():
        if value:
            notices.ignored(name, f"only target vertex supports it, not {target}")
    if job.strategy != STANDARD:
        notices.ignored(f"--strategy={job.strategy}", f"only target vertex supports it, not {target}")
    chief = job.pools[0]
    for pool in job.pools:
        if pool.config.command or pool.config.arguments:
            notices.ignored(
                "containerCommand and containerArgs", "the pipeline's steps have their own command"
            )
        if pool.config.disk_gb or pool.config.disk_type:
            notices.ignored("bootDiskType and bootDiskSizeGb", f"target {target} creates no disks")
    if target == "local":
        if config.scale_tier or config.machine_types.get("master"):
            notices.ignored(f"the machine {chief.machine}", "the pipeline runs on this machine")
        if len(job.pools) > 1:
            notices.ignored("workerCount", "the pipeline runs on this machine")
        if config.service_account:
            notices.ignored("serviceAccount", "the pipeline runs as you")
        for role in ("master", "worker"):
            image = config.config(role).image_uri
            if image and not _ORIGINAL_IMAGE.search(image):
                notices.ignored(
                    f"{role}Config.imageUri", "the steps run in this environment, not in an image"
                )
        return parameters, tuple(notices.texts)
    if len(job.pools) > 1:
        raise InvalidArgumentError(
            f"{config.name('workerCount')}={job.pools[1].replicas}: on Kubeflow, the pipeline trains "
            "in one pod",
            where=config.where("workerCount"),
            remedy="use one larger machine, or --target vertex",
        )
    uses_katib = _uses_katib(job, target_inputs)
    selector = "trial_node_selector" if uses_katib else "train_node_selector"
    machine_parameters, machine_notices = kubernetes_parameters(
        chief.machine, selects_nodes=selector in target_inputs
    )
    if uses_katib:
        machine_parameters = _trial_parameters(machine_parameters)
        machine_notices = tuple(text.replace("train_node_selector", selector) for text in machine_notices)
        if "@" not in config.service_account and config.service_account:
            machine_parameters["trial_service_account"] = config.service_account
        elif config.service_account:
            notices.ignored(
                f"{config.name('serviceAccount')}={config.service_account} for the trials",
                "they need a Kubernetes service account; --service-account accepts its name",
            )
    elif config.hyperparameters and "tune_engine" not in target_inputs:
        notices.texts.append(
            "the trials run in the tune step's pod; with a gs:// --job-dir, Katib runs each in its own pod"
        )
    parameters.update(machine_parameters)
    notices.texts += machine_notices
    if chief.config.image_uri or chief.machine.kind != "cpu":
        parameters["train_image"] = chief.config.image_uri or image_of(chief.machine)
    if config.scale_tier or config.machine_types.get("master"):
        # No notices about a machine that the user did not request.
        notices.texts += overridden_notices(parameters, target_inputs)
    parameters.update(target_inputs)
    return parameters, tuple(notices.texts)


def _uses_katib(job: TrainingJob, target_inputs: Mapping[str, Any]) -> bool:
    """Returns whether Katib runs the trials: by default, if job_dir is in a bucket that all pods can read."""
    if not job.config.hyperparameters:
        return False
    job_dir = str(job.values.get("job_dir", ""))
    engine = target_inputs.get("tune_engine", LOCAL if is_local(job_dir) else KATIB)
    return bool(engine == KATIB)


def _tuning_parameters(job: TrainingJob) -> dict[str, Any]:
    """Returns the search space as input of the tuning pipeline; nothing if nothing is tuned."""
    if job.config.hyperparameters is None:
        return {}
    block = {"hyperparameters": json.dumps(job.config.hyperparameters.block)}
    return {**block, **largest_batch_size(read_request(from_values(TuneArguments, {**job.values, **block})))}


def _trial_parameters(machine_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the machine parameters of the training to those of Katib's trials; the step only polls."""
    trial = {f"trial_{name.removeprefix('train_')}": value for name, value in machine_parameters.items()}
    if "trial_accelerator_count" in trial:
        trial["trial_accelerator_count"] = int(trial["trial_accelerator_count"])
    for name in ("trial_node_selector", "trial_tolerations"):
        if name in trial:
            trial[name] = json.dumps(trial[name])
    return {**trial, "tune_engine": KATIB, "train_cpu": "1", "train_memory": "2G"}


def vertex_pipeline_parameters(
    job: TrainingJob, target_inputs: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Returns the parameters of the pipeline on Vertex AI: image-classification-tune if something is tuned.

    Args:
        job: Result of ``plan_job``.
        target_inputs: Result of ``parse_target_inputs``; overrides the config.
    """
    config, chief = job.config, job.pools[0]
    parameters: dict[str, Any] = {"recipe": ORIGINAL, **job.values, **_tuning_parameters(job)}
    parameters["train_strategy"] = job.strategy
    identical = all((pool.machine, pool.config) == (chief.machine, chief.config) for pool in job.pools)
    if identical and not chief.config.disk_type:
        parameters.update(
            train_machine_type=chief.machine.machine_type,
            train_accelerator_type=chief.machine.accelerator_type,
            train_accelerator_count=chief.machine.accelerator_count,
            train_tpu_topology=chief.machine.tpu_topology,
            train_replicas=sum(pool.replicas for pool in job.pools),
            train_boot_disk_gb=chief.config.disk_gb,
        )
    else:
        parameters["train_worker_pools"] = json.dumps([_worker_pool_spec(pool) for pool in job.pools])
    if chief.config.image_uri:
        parameters["train_image"] = chief.config.image_uri
    if config.max_running_seconds is not None:
        parameters["train_timeout_seconds"] = math.ceil(config.max_running_seconds)
    if config.max_wait_seconds is not None:
        parameters["train_wait_seconds"] = math.ceil(config.max_wait_seconds)
    settings = {
        "service_account": config.service_account,
        "network": config.network,
        "encryption_key": config.kms_key_name,
        "labels": json.dumps(dict(config.labels)) if config.labels else "",
    }
    parameters.update({name: value for name, value in settings.items() if value}, **target_inputs)
    return parameters


def ignored_in_pipeline(job: TrainingJob) -> tuple[str, ...]:
    """Returns notices about fields that the training of a pipeline on Vertex AI ignores."""
    notices = _Notices(job.config)
    if job.config.enable_web_access:
        notices.ignored("enableWebAccess", "the training of a pipeline has no interactive shell")
    for pool in job.pools:
        if pool.config.command or pool.config.arguments:
            notices.ignored(
                "containerCommand and containerArgs", "the training of a pipeline has its own command"
            )
        if pool.config.image_uri not in ("", job.pools[0].config.image_uri):
            notices.ignored(
                f"imageUri={pool.config.image_uri}",
                "the training of a pipeline has one image, the first worker pool's",
            )
    return tuple(notices.texts)


def _merge_arguments(
    args: Sequence[str], config: TrainingInput, arguments_classes: Sequence[type[Any]], notices: _Notices
) -> tuple[list[str], dict[str, Any]]:
    """Returns the training's arguments as written and typed: the command line overrides the config."""
    given = parse_command_line(args, arguments_classes)
    from_config = parse_command_line(config.arguments, arguments_classes)
    for name in sorted(set(given) & set(from_config)):
        notices.ignored(f"args: --{name}={from_config[name]}", f"the command line sets {given[name]}")
    merged = [
        *(arg for arg in _join_values(config.arguments) if _name_of(arg) not in given),
        *_join_values(args),
    ]
    values = {**from_config, **given}
    if config.job_dir and "job_dir" in values:
        if config.job_dir != values["job_dir"]:
            notices.ignored(
                f"{config.name('jobDir')}={config.job_dir}",
                f"--job-dir={values['job_dir']} after `--` overrides it",
            )
    elif config.job_dir:
        merged.append(f"--job-dir={config.job_dir}")
        values["job_dir"] = config.job_dir
    if JobPaths in arguments_classes:
        for name in ("training_data_path", "validation_data_path", "job_dir"):
            if not values.get(name):
                raise InvalidArgumentError(
                    f"--{name.replace('job_dir', 'job-dir')} is not given",
                    remedy="add it after `--`, with the other training arguments",
                )
    return merged, values


def _join_values(args: Sequence[str]) -> list[str]:
    """Joins ``--name value`` to ``--name=value``."""
    merged: list[str] = []
    for arg in args:
        if arg.startswith("--") or not merged:
            merged.append(arg)
        else:
            merged[-1] += f"={arg}"
    return merged


def _name_of(arg: str) -> str:
    return arg[2:].partition("=")[0].replace("-", "_")


def _pools(config: TrainingInput, notices: _Notices) -> tuple[Pool, ...]:
    tier = config.scale_tier or "BASIC"
    pools: dict[str, Pool]
    for role in ("parameterServer", "evaluator"):
        if config.machine_types.get(role) or config.counts.get(role):
            notices.ignored(
                f"{config.name(f'{role}Type')} and {config.name(f'{role}Count')}",
                "the training uses no parameter servers"
                if role == "parameterServer"
                else "the training evaluates and keeps the best model itself",
            )
    if tier != "CUSTOM":
        _check_no_machines(config, tier)
        resolved = machine_of_scale_tier(tier, name=config.name("scaleTier"))
        notices.texts += resolved.warnings
        replica_config = _replace_original_image(config.config("master"), "masterConfig", notices)
        pools = {"master": Pool(resolved.machine, 1, replica_config)}
    else:
        pools = _custom_pools(config, notices)
    for role, replica_config in config.configs.items():
        if role not in pools and replica_config != ReplicaConfig():
            only_image = replica_config == ReplicaConfig(image_uri=replica_config.image_uri)
            notices.ignored(
                f"{role}Config.imageUri" if only_image else f"{role}Config",
                "the job has no machine for this role",
            )
    check_pools([(pool.machine, pool.replicas) for pool in pools.values()])
    return tuple(pools.values())


def _check_no_machines(config: TrainingInput, tier: str) -> None:
    given = [f"{config.name(f'{role}Type')}={machine}" for role, machine in config.machine_types.items()]
    given += [f"{config.name(f'{role}Count')}={count}" for role, count in config.counts.items()]
    for role, replica_config in config.configs.items():
        if replica_config.accelerator_type or replica_config.accelerator_count:
            given.append(config.name(f"{role}Config.acceleratorConfig"))
        if replica_config.tpu_topology:
            given.append(config.name(f"{role}Config.tpuTopology"))
    if given:
        raise InvalidArgumentError(
            f"{given[0]} contradicts {config.name('scaleTier')}={tier}"
            f"{'' if config.scale_tier else ', which is the default'}",
            remedy=f"set {config.setting('scaleTier', 'CUSTOM')} to choose machines, or remove the machines",
        )


def _custom_pools(config: TrainingInput, notices: _Notices) -> dict[str, Pool]:
    """Returns the worker pools by role, the chief's first."""
    if not config.machine_types.get("master"):
        raise InvalidArgumentError(
            f"{config.name('masterType')} is required by {config.name('scaleTier')}=CUSTOM",
            remedy=f"set it, e.g. {config.setting('masterType', 'n1-standard-8')}, or use "
            f"{config.setting('scaleTier', 'BASIC')}",
        )
    master = _pool(config, "master", 1, notices)
    worker_type, workers = config.machine_types.get("worker", ""), config.counts.get("worker", 0)
    if bool(worker_type) != bool(workers):
        raise InvalidArgumentError(
            f"{config.name('workerType')}={worker_type!r} and {config.name('workerCount')}="
            f"{workers or '(none)'}: one of them is missing",
            remedy="set both, or neither",
        )
    if not worker_type:
        return {"master": master}
    worker = _pool(config, "worker", workers, notices)
    if worker.machine.kind == "tpu" and master.machine.kind == "cpu":
        # On Vertex AI, the TPU machine includes the host.
        notices.texts.append(
            f"{config.name('masterType')}={config.machine_types['master']} is not used: the training runs on "
            f"the TPU's host, one worker pool of {worker.machine}"
        )
        return {"worker": worker}
    if not config.config("worker").image_uri and worker.machine.kind != "tpu":
        # As on AI Platform: workers default to the master's image.
        worker = replace(worker, config=replace(worker.config, image_uri=master.config.image_uri))
    return {"master": master, "worker": worker}


def _pool(config: TrainingInput, role: str, replicas: int, notices: _Notices) -> Pool:
    replica_config, path, value = config.config(role), f"{role}Type", config.machine_types[role]
    file = config.where(path)
    resolved = resolve(
        value,
        replica_config.accelerator_type,
        replica_config.accelerator_count,
        tpu_topology=replica_config.tpu_topology,
        allow_unknown=config.allow_unknown_machine,
        where=f"{config.name(path)}={value}{f' in {file}' if file else ''}",
    )
    notices.texts += resolved.warnings
    return Pool(resolved.machine, replicas, _replace_original_image(replica_config, f"{role}Config", notices))


def _replace_original_image(config: ReplicaConfig, path: str, notices: _Notices) -> ReplicaConfig:
    if config.tpu_tf_version:
        notices.ignored(f"{path}.tpuTfVersion={config.tpu_tf_version}", "the image includes TensorFlow")
    job = notices.config
    name = job.name(f"{path}.imageUri")
    if not _ORIGINAL_IMAGE.search(config.image_uri):
        check_image(config.image_uri, name=name, where=job.where(f"{path}.imageUri"))
        return config
    notices.texts.append(f"{name}: imgpipe's image replaces Google's built-in algorithm")
    return replace(config, image_uri="")


def _check_resource_names(config: TrainingInput, *, on_kubernetes: bool) -> None:
    account = config.service_account
    if on_kubernetes and is_subdomain(account):
        account = ""
    for name, value, pattern, form in (
        (
            "serviceAccount",
            account,
            _SERVICE_ACCOUNT,
            "NAME@PROJECT.iam.gserviceaccount.com; on Kubeflow, the name of a ServiceAccount",
        ),
        (
            "network",
            config.network,
            _NETWORK,
            "projects/NUMBER/global/networks/NAME, with the project's number: gcloud projects describe "
            "PROJECT --format='value(projectNumber)'",
        ),
        (
            "encryptionConfig.kmsKeyName",
            config.kms_key_name,
            _KMS_KEY,
            "projects/P/locations/REGION/keyRings/RING/cryptoKeys/KEY",
        ),
    ):
        if value and not pattern.fullmatch(value):
            raise InvalidArgumentError(
                f"{config.name(name)}={value!r} is not a valid resource name",
                where=config.where(name),
                remedy=f"use the form {form}",
            )


def _note_ignored_fields(config: TrainingInput, notices: _Notices, *, resumes: bool) -> None:
    for name, value, reason in (
        ("runtimeVersion", config.runtime_version, "the image includes TensorFlow"),
        ("pythonVersion", config.python_version, "the image includes Python"),
        ("packageUris", config.package_uris, "the image contains the training code"),
        ("pythonModule", config.python_module, "the image contains the training code"),
        (
            "useChiefInTfConfig",
            config.use_chief_in_tf_config,
            "on Vertex AI the first replica is always the chief",
        ),
        ("scheduling.priority", config.priority, "Vertex AI has no job priorities"),
    ):
        if value:
            notices.ignored(name, reason)
    if config.hyperparameters and config.hyperparameters.resume_job and not resumes:
        notices.ignored(
            "hyperparameters.resumePreviousJobId",
            "neither Vertex AI nor Katib can resume a study; all trials start from the beginning",
        )


def _worker_pool_spec(pool: Pool) -> dict[str, Any]:
    return worker_pool_spec(
        pool.machine.spec, pool.replicas, disk_type=pool.config.disk_type, disk_gb=pool.config.disk_gb
    )
