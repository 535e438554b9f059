"""The command line and config.yaml of ``gcloud ai-platform jobs submit training``, for today's platforms.

``plan_job`` checks what the user gave; ``vertex_request`` makes the CustomJob or HyperparameterTuningJob of
it, ``pipeline_parameters`` the parameters of the pipeline for Kubeflow and for this machine. Every field of
the config is honoured, or named in a notice with the reason why it has no effect.
"""

import dataclasses
import hashlib
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
from imgpipe.components.common.hyperparameters import Hyperparameters, block_of, check_tuned_arguments
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.platforms.vertex.client import check_region
from imgpipe.components.platforms.vertex.jobs import JOB_LABEL, REQUEST_LABEL
from imgpipe.components.platforms.vertex.study_spec import study_spec
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.tune.job_dir import check_local
from imgpipe.components.tune.katib_arguments import KATIB, LOCAL
from imgpipe.pipelines.images import check_image
from imgpipe.pipelines.kubernetes_machines import kubernetes_parameters
from imgpipe.pipelines.machines import Machine, check_pools, machine_of_scale_tier, resolve
from imgpipe.pipelines.target_inputs import check_target_inputs, given_instead
from imgpipe.pipelines.target_rules import check_paths, uri_of_mounted
from imgpipe.pipelines.training_input import ReplicaConfig, TrainingInput

# The image of the original algorithm, wherever it is kept: the training in it is what ours replaces.
_ORIGINAL_IMAGE = re.compile(r"(^|/)cloud-ml-algos/image_classification\b")
_JOB_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
_NETWORK = re.compile(r"projects/[^/]+/global/networks/[^/]+")
_KMS_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")
_SERVICE_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_KUBERNETES_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
# Of the container: a trial of a tuning has a folder of its own in job_dir.
_MODULE = {False: "imgpipe.components.train", True: "imgpipe.components.tune.remote_trial"}
STRATEGIES = ("standard", "spot", "flex-start")


def _as_in_the_form(name: str) -> Any:
    described = flat_fields([ConvertArguments, ExportArguments])[name]
    return dataclasses.field(default="", metadata=described.metadata)


@dataclass(frozen=True)
class JobPaths:
    """What a job reads and where it writes."""

    training_data_path: str = _as_in_the_form("training_data_path")
    validation_data_path: str = _as_in_the_form("validation_data_path")
    labels_file: str = _as_in_the_form("labels_file")
    job_dir: str = _as_in_the_form("job_dir")


JOB_ARGUMENTS = (JobPaths, TrainingArguments)


@dataclass(frozen=True)
class Pool:
    """Machines that are alike.

    Attributes:
        machine: To be rented.
        replicas: How many.
        config: How their containers are made; ``image_uri`` is empty where the image is ours.
    """

    machine: Machine
    replicas: int
    config: ReplicaConfig


@dataclass(frozen=True)
class TrainingJob:
    """A job whose every argument was checked.

    Attributes:
        job_id: Its name.
        words: The training's arguments as the user wrote them, ``--name=value``.
        values: The same by name, typed.
        pools: The first has one replica, the chief.
        config: What config.yaml and flags said.
        strategy: One of ``STRATEGIES``.
        notices: What was replaced or has no effect, and why; a sentence each.
    """

    job_id: str
    words: tuple[str, ...]
    values: Mapping[str, Any]
    pools: tuple[Pool, ...]
    config: TrainingInput
    strategy: str = "standard"
    notices: tuple[str, ...] = ()

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        """What is tuned, if anything is."""
        return self.config.hyperparameters


@dataclass(frozen=True)
class VertexRequest:
    """What is sent to Vertex AI.

    Attributes:
        kind: ``CustomJob`` or ``HyperparameterTuningJob``.
        region: Where.
        body: The resource in the JSON form of Vertex AI's REST interface.
    """

    kind: str
    region: str
    body: Mapping[str, Any]


@dataclass
class _Notices:
    """Gathers what the user is told, in the words in which it was given."""

    config: TrainingInput
    texts: list[str] = field(default_factory=list)

    def ignored(self, name: str, reason: str) -> None:
        verb = "are" if " and " in name else "is"
        self.texts.append(f"{self.config.name(name)} {verb} ignored: {reason}")


def plan_job(
    job_id: str,
    words: Sequence[str],
    config: TrainingInput,
    *,
    arguments_classes: Sequence[type[Any]] = JOB_ARGUMENTS,
    strategy: str = "standard",
    resumes: bool = False,
    on_kubernetes: bool = False,
) -> TrainingJob:
    """Checks a submission whole: machines, arguments, search space.

    Args:
        job_id: The job's name.
        words: What stands after ``--``.
        config: What config.yaml and the command line's flags say.
        arguments_classes: The dataclasses whose fields may be given.
        strategy: How Vertex AI finds machines: one of ``STRATEGIES``.
        resumes: Whether a tuning can go on with the trials of an earlier one: on this machine alone.
        on_kubernetes: Whether the service account may be one of Kubernetes.

    Raises:
        InvalidArgumentError: naming the field or flag, its value, and what to do.
    """
    check_job_id(job_id)
    if strategy not in STRATEGIES:
        raise InvalidArgumentError(
            f"--strategy={strategy} does not exist", remedy=f"use one of {', '.join(STRATEGIES)}"
        )
    notices = _Notices(config)
    with _placed(config.file):
        pools = _pools(config, notices)
    after = ", or the arguments after `--`" if words else ""
    with _placed(f"args in {config.file}{after}" if config.file and config.arguments else ""):
        words, values = _arguments(words, config, arguments_classes, notices)
        training = from_values(TrainingArguments, values)
    if config.hyperparameters:
        tuned = {parameter.name for parameter in config.hyperparameters.parameters}
        fixed = {name: getattr(training, name) for name in flat_fields([TrainingArguments])}
        check_tuned_arguments(
            config.hyperparameters, TrainingArguments, fixed, where=config.file or "hyperparameters"
        )
        for name in sorted(tuned & set(values)):
            notices.ignored(f"--{name}={values[name]}", "the tuning chooses its value in every trial")
        words = [word for word in words if _name_of(word) not in tuned]
        values = {name: value for name, value in values.items() if name not in tuned}
    if not (on_kubernetes and _KUBERNETES_ACCOUNT.fullmatch(config.service_account)):
        _check_account(config)
    _check_platform_fields(config)
    _note_ignored_fields(config, notices, resumes=resumes)
    if config.max_wait_seconds is not None and strategy != "flex-start":
        notices.ignored(
            "scheduling.maxWaitTime",
            "Vertex AI bounds the wait for machines with --strategy=flex-start alone",
        )
    if strategy == "flex-start" and not any(pool.machine.kind == "gpu" for pool in pools):
        raise InvalidArgumentError(
            f"--strategy=flex-start queues for GPUs, but the job has none: {pools[0].machine}",
            remedy="use --strategy=standard or spot, or a machine with GPUs",
        )
    return TrainingJob(job_id, tuple(words), values, pools, config, strategy, tuple(notices.texts))


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Gives the errors of the block a place, if they have none of their own."""
    try:
        yield
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.problem, where=error.where or where, remedy=error.remedy) from None


def check_job_id(job_id: str, what: str = "the job id") -> None:
    """Refuses a name that not every target takes.

    Raises:
        InvalidArgumentError: naming it as ``what``.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise InvalidArgumentError(
            f"{what} {job_id!r} is not allowed",
            remedy="use letters, digits, - and _, at most 128 of them, and begin with a letter",
        )


def vertex_request(
    job: TrainingJob, image_of: Callable[[Machine], str], *, region: str = ""
) -> VertexRequest:
    """Makes the CustomJob, or the HyperparameterTuningJob if something is tuned.

    Args:
        job: What ``plan_job`` returned.
        image_of: Our training image for a machine.
        region: Where to run; empty = what the config says.

    Raises:
        InvalidArgumentError: if the job names no region, or a path of this machine.
    """
    config = job.config
    region = region or config.region
    if region == config.region:
        check_region(region, name=config.name("region"), where=config.where("region"))
    check_region(region)
    check_paths("vertex", job.values)
    job_spec: dict[str, Any] = {
        "workerPoolSpecs": [_worker_pool_spec(pool, job, image_of) for pool in job.pools],
        **_scheduling(job),
    }
    if config.service_account:
        job_spec["serviceAccount"] = config.service_account
    if config.network:
        job_spec["network"] = config.network
    if config.enable_web_access:
        job_spec["enableWebAccess"] = True
    job_spec["baseOutputDirectory"] = {"outputUriPrefix": uri_of_mounted(job.values["job_dir"])}
    body: dict[str, Any] = {"displayName": job.job_id}
    if job.hyperparameters is None:
        body["jobSpec"] = job_spec
    else:
        body.update(
            studySpec=study_spec(job.hyperparameters),
            maxTrialCount=job.hyperparameters.max_trials,
            parallelTrialCount=job.hyperparameters.max_parallel_trials,
            trialJobSpec=job_spec,
        )
        if job.hyperparameters.max_failed_trials:
            body["maxFailedTrialCount"] = job.hyperparameters.max_failed_trials
    if config.kms_key_name:
        body["encryptionSpec"] = {"kmsKeyName": config.kms_key_name}
    body["labels"] = {
        **config.labels,
        JOB_LABEL: job_label(job.job_id),
        # Of everything above: a second job of the same name is known to be the same, or another one.
        REQUEST_LABEL: hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32],
    }
    return VertexRequest("HyperparameterTuningJob" if job.hyperparameters else "CustomJob", region, body)


def job_label(job_id: str) -> str:
    """Returns a job id as the value of a label: short and in lower case, and still that job's alone."""
    if re.fullmatch(r"[a-z0-9_-]{1,63}", job_id):
        return job_id
    digest = hashlib.sha256(job_id.encode()).hexdigest()[:12]
    return f"{job_id.lower()[:50]}-{digest}"


def pipeline_parameters(
    job: TrainingJob,
    target: str,
    image_of: Callable[[Machine], str],
    target_inputs: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the parameters of the pipeline for Kubeflow or this machine, and notices.

    Where something is tuned, that is the pipeline image-classification-tune. On Kubeflow, the trials are
    Katib's, each with the machine of the training, if job_dir is where all their pods see it; else they run
    in the tune step, which has that machine.

    Args:
        job: What ``plan_job`` returned.
        target: ``kubeflow`` or ``local``.
        image_of: Our training image for a machine.
        target_inputs: What ``parse_target_inputs`` returned; goes before what the job's machine comes to.

    Raises:
        InvalidArgumentError: if the job asks for what the target cannot give.
    """
    config = job.config
    notices = _Notices(config)
    parameters = {**job.values, **_tuned(job)}
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
            notices.ignored(name, f"only Vertex AI has it, not target {target}")
    if job.strategy != "standard":
        notices.ignored(f"--strategy={job.strategy}", f"only Vertex AI has it, not target {target}")
    chief = job.pools[0]
    for pool in job.pools:
        # A pipeline's steps have an image and a command of their own.
        if pool.config.command or pool.config.arguments:
            notices.ignored("containerCommand and containerArgs", "the step has its own command")
        if pool.config.disk_gb or pool.config.disk_type:
            notices.ignored("bootDiskType and bootDiskSizeGb", f"target {target} rents no disk")
    if target == "local":
        if job.hyperparameters:
            check_local(str(job.values.get("job_dir", "")))
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
            f"{config.name('workerCount')}={job.pools[1].replicas}: the pipeline trains in one pod on "
            "Kubeflow",
            where=config.where("workerCount"),
            remedy="take one larger machine, or --target vertex",
        )
    by_katib = _tunes_by_katib(job, target_inputs)
    selector = "trial_node_selector" if by_katib else "train_node_selector"
    placed, placing_notices = kubernetes_parameters(chief.machine, selects_nodes=selector in target_inputs)
    if by_katib:
        placed = _placed_by_katib(placed)
        placing_notices = tuple(text.replace("train_node_selector", selector) for text in placing_notices)
        if "@" not in config.service_account and config.service_account:
            placed["trial_service_account"] = config.service_account
        elif config.service_account:
            notices.ignored(
                f"{config.name('serviceAccount')}={config.service_account} for the trials",
                "they run as a service account of Kubernetes: --service-account takes the name of one",
            )
    elif job.hyperparameters and "tune_engine" not in target_inputs:
        notices.texts.append(
            "the trials run in the pod of the tune step: with a gs:// --job-dir, Katib gives each a pod"
        )
    parameters.update(placed)
    notices.texts += placing_notices
    if chief.config.image_uri or chief.machine.kind != "cpu":
        parameters["train_image"] = chief.config.image_uri or image_of(chief.machine)
    if config.scale_tier or config.machine_types.get("master"):
        # Of a machine that nobody asked for there is nothing to tell.
        notices.texts += given_instead(parameters, target_inputs)
    parameters.update(target_inputs)
    check_target_inputs(parameters, list(target_inputs), target=target)
    return parameters, tuple(notices.texts)


def _tunes_by_katib(job: TrainingJob, target_inputs: Mapping[str, Any]) -> bool:
    """Tells whether the trials are Katib's: where all their pods see the job_dir, unless said otherwise."""
    if not job.hyperparameters:
        return False
    job_dir = str(job.values.get("job_dir", ""))
    engine = target_inputs.get("tune_engine", KATIB if is_cloud_path(job_dir) else LOCAL)
    if engine == KATIB and not is_cloud_path(job_dir):
        raise InvalidArgumentError(
            f"--input tune_engine={KATIB} needs a job_dir in Cloud Storage, which all trials see, not "
            f"{job_dir!r}",
            remedy="give --job-dir=gs://BUCKET/FOLDER after `--`",
        )
    return bool(engine == KATIB)


def _tuned(job: TrainingJob) -> dict[str, str]:
    """Returns the input of the tuning pipeline that says what is tuned; nothing if nothing is."""
    if job.hyperparameters is None:
        return {}
    return {"hyperparameters": json.dumps(block_of(job.hyperparameters))}


def _placed_by_katib(placed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the training's placing parameters as those of Katib's trials; the step only follows them."""
    trial = {f"trial_{name.removeprefix('train_')}": value for name, value in placed.items()}
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
        job: What ``plan_job`` returned.
        target_inputs: What ``parse_target_inputs`` returned; goes before what the config says.

    Raises:
        InvalidArgumentError: if a path is one of this machine.
    """
    check_paths("vertex", job.values)
    config, chief = job.config, job.pools[0]
    parameters: dict[str, Any] = {**job.values, **_tuned(job), "train_strategy": job.strategy}
    alike = all((pool.machine, pool.config) == (chief.machine, chief.config) for pool in job.pools)
    if alike and not chief.config.disk_type:
        parameters.update(
            train_machine_type=chief.machine.machine_type,
            train_accelerator_type=chief.machine.accelerator_type,
            train_accelerator_count=chief.machine.accelerator_count,
            train_tpu_topology=chief.machine.tpu_topology,
            train_replicas=sum(pool.replicas for pool in job.pools),
            train_boot_disk_gb=chief.config.disk_gb,
        )
    else:
        specs = [_worker_pool_spec(pool, job, lambda _: "") for pool in job.pools]
        for spec in specs:
            del spec["containerSpec"]
        parameters["train_worker_pools"] = json.dumps(specs)
    if chief.config.image_uri:
        parameters["train_image"] = chief.config.image_uri
    if config.max_running_seconds is not None:
        parameters["train_timeout_seconds"] = math.ceil(config.max_running_seconds)
    if config.max_wait_seconds is not None:
        parameters["train_wait_seconds"] = math.ceil(config.max_wait_seconds)
    for name, value in (
        ("service_account", config.service_account),
        ("network", config.network),
        ("encryption_key", config.kms_key_name),
    ):
        if value:
            parameters[name] = value
    if config.labels:
        parameters["labels"] = json.dumps(dict(config.labels))
    parameters.update(target_inputs)
    check_target_inputs(parameters, list(target_inputs), target="vertex")
    return parameters


def ignored_in_pipeline(job: TrainingJob) -> tuple[str, ...]:
    """Returns what the training of a pipeline on Vertex AI has no place for, a notice each."""
    notices = _Notices(job.config)
    if job.config.enable_web_access:
        notices.ignored("enableWebAccess", "the training that a pipeline starts has no such shell")
    for pool in job.pools:
        if pool.config.command or pool.config.arguments:
            notices.ignored(
                "containerCommand and containerArgs", "the pipeline's training has its own command"
            )
        if pool.config.image_uri not in ("", job.pools[0].config.image_uri):
            notices.ignored(
                f"imageUri={pool.config.image_uri}",
                "the pipeline's training has one image, that of the first worker pool",
            )
    return tuple(notices.texts)


def _arguments(
    words: Sequence[str], config: TrainingInput, arguments_classes: Sequence[type[Any]], notices: _Notices
) -> tuple[list[str], dict[str, Any]]:
    """Returns the training's arguments: the config's, then the command line's in their place."""
    given = parse_command_line(words, arguments_classes)
    from_config = parse_command_line(config.arguments, arguments_classes)
    for name in sorted(set(given) & set(from_config)):
        notices.ignored(f"args: --{name}={from_config[name]}", f"the command line says {given[name]}")
    merged = [
        *(word for word in _one_word_each(config.arguments) if _name_of(word) not in given),
        *_one_word_each(words),
    ]
    values = {**from_config, **given}
    if config.job_dir and "job_dir" in values:
        if config.job_dir != values["job_dir"]:
            notices.ignored(
                f"{config.name('jobDir')}={config.job_dir}",
                f"--job-dir={values['job_dir']} after `--` goes before it",
            )
    elif config.job_dir:
        merged.append(f"--job-dir={config.job_dir}")
        values["job_dir"] = config.job_dir
    if JobPaths in arguments_classes:
        for name in ("training_data_path", "validation_data_path", "job_dir"):
            if not values.get(name):
                raise InvalidArgumentError(
                    f"--{name.replace('job_dir', 'job-dir')} is not given",
                    remedy="give it after `--`, with the training's other arguments",
                )
    return merged, values


def _one_word_each(words: Sequence[str]) -> list[str]:
    """Returns ``--name value`` as ``--name=value``, so that a word is an argument."""
    merged: list[str] = []
    for word in words:
        if word.startswith("--") or not merged:
            merged.append(word)
        else:
            merged[-1] += f"={word}"
    return merged


def _name_of(word: str) -> str:
    return word[2:].partition("=")[0].replace("-", "_")


def _pools(config: TrainingInput, notices: _Notices) -> tuple[Pool, ...]:
    tier = config.scale_tier or "BASIC"
    pools: dict[str, Pool]
    for role in ("parameterServer", "evaluator"):
        if config.machine_types.get(role) or config.counts.get(role):
            notices.ignored(
                f"{config.name(f'{role}Type')} and {config.name(f'{role}Count')}",
                "the training uses no parameter servers"
                if role == "parameterServer"
                else "the training evaluates by itself, and keeps the best model",
            )
    if tier != "CUSTOM":
        _check_no_machines(config, tier)
        resolved = machine_of_scale_tier(tier, name=config.name("scaleTier"))
        notices.texts += resolved.warnings
        image = _image_replaced(config.config("master"), "masterConfig", notices)
        pools = {"master": Pool(resolved.machine, 1, image)}
    else:
        pools = _custom_pools(config, notices)
    for role, one in config.configs.items():
        if role not in pools and one != ReplicaConfig():
            image_alone = one == ReplicaConfig(image_uri=one.image_uri)
            notices.ignored(
                f"{role}Config.imageUri" if image_alone else f"{role}Config",
                "no machine of its own is rented for it",
            )
    check_pools([(pool.machine, pool.replicas) for pool in pools.values()])
    return tuple(pools.values())


def _check_no_machines(config: TrainingInput, tier: str) -> None:
    given = [f"{config.name(f'{role}Type')}={machine}" for role, machine in config.machine_types.items()]
    given += [f"{config.name(f'{role}Count')}={count}" for role, count in config.counts.items()]
    given += [
        config.name(f"{role}Config.acceleratorConfig")
        for role, one in config.configs.items()
        if one.accelerator_type or one.accelerator_count
    ]
    given += [
        config.name(f"{role}Config.tpuTopology") for role, one in config.configs.items() if one.tpu_topology
    ]
    if given:
        raise InvalidArgumentError(
            f"{given[0]} does not go with {config.name('scaleTier')}={tier}"
            f"{'' if config.scale_tier else ', which is the default'}",
            remedy=f"give {config.setting('scaleTier', 'CUSTOM')} to choose machines, or leave the machines "
            "out",
        )


def _custom_pools(config: TrainingInput, notices: _Notices) -> dict[str, Pool]:
    """Returns the worker pools by their role, the chief's first."""
    if not config.machine_types.get("master"):
        raise InvalidArgumentError(
            f"{config.name('masterType')} is not given, but {config.name('scaleTier')}=CUSTOM needs it",
            remedy=f"give {config.setting('masterType', 'n1-standard-8')}, e.g., or "
            f"{config.setting('scaleTier', 'BASIC')}",
        )
    master = _pool(config, "master", 1, notices)
    worker_type, workers = config.machine_types.get("worker", ""), config.counts.get("worker", 0)
    if bool(worker_type) != bool(workers):
        raise InvalidArgumentError(
            f"{config.name('workerType')}={worker_type!r} and {config.name('workerCount')}="
            f"{workers or '(none)'}: one of the two is missing",
            remedy="give both, or neither",
        )
    if not worker_type:
        return {"master": master}
    worker = _pool(config, "worker", workers, notices)
    if worker.machine.kind == "tpu" and master.machine.kind == "cpu":
        # Today's TPU machine has its processors with it.
        notices.texts.append(
            f"{config.name('masterType')}={config.machine_types['master']} is not rented: the training runs "
            f"on the TPU's own machine, one worker pool of {worker.machine}"
        )
        return {"worker": worker}
    if not config.config("worker").image_uri and worker.machine.kind != "tpu":
        # As AI Platform did: workers without an image of their own have the master's.
        worker = replace(worker, config=replace(worker.config, image_uri=master.config.image_uri))
    return {"master": master, "worker": worker}


def _pool(config: TrainingInput, role: str, replicas: int, notices: _Notices) -> Pool:
    one = config.config(role)
    resolved = resolve(
        config.machine_types[role],
        one.accelerator_type,
        one.accelerator_count,
        tpu_topology=one.tpu_topology,
        where=_place(config, f"{role}Type", config.machine_types[role]),
    )
    notices.texts += resolved.warnings
    return Pool(resolved.machine, replicas, _image_replaced(one, f"{role}Config", notices))


def _place(config: TrainingInput, path: str, value: str) -> str:
    """Returns field and value as the user wrote them, and the file if they are written there."""
    file = config.where(path)
    return f"{config.name(path)}={value}{f' in {file}' if file else ''}"


def _image_replaced(config: ReplicaConfig, path: str, notices: _Notices) -> ReplicaConfig:
    if config.tpu_tf_version:
        notices.ignored(
            f"{path}.tpuTfVersion={config.tpu_tf_version}", "the image brings its TensorFlow along"
        )
    job = notices.config
    name = job.name(f"{path}.imageUri")
    if not _ORIGINAL_IMAGE.search(config.image_uri):
        check_image(config.image_uri, name=name, where=job.where(f"{path}.imageUri"))
        return config
    notices.texts.append(f"{name}: Google's built-in algorithm is replaced by imgpipe's image")
    return replace(config, image_uri="")


def _check_account(config: TrainingInput) -> None:
    account = config.service_account
    if account and not _SERVICE_ACCOUNT.fullmatch(account):
        raise InvalidArgumentError(
            f"{config.name('serviceAccount')}={account!r} is not such a name",
            where=config.where("serviceAccount"),
            remedy="write it as NAME@PROJECT.iam.gserviceaccount.com; on Kubeflow, as the name of a "
            "ServiceAccount",
        )


def _check_platform_fields(config: TrainingInput) -> None:
    for name, value, pattern, example in (
        ("network", config.network, _NETWORK, "projects/NUMBER/global/networks/NAME"),
        (
            "encryptionConfig.kmsKeyName",
            config.kms_key_name,
            _KMS_KEY,
            "projects/P/locations/REGION/keyRings/RING/cryptoKeys/KEY",
        ),
    ):
        if value and not pattern.fullmatch(value):
            raise InvalidArgumentError(
                f"{config.name(name)}={value!r} is not such a name",
                where=config.where(name),
                remedy=f"write it as {example}",
            )


def _note_ignored_fields(config: TrainingInput, notices: _Notices, *, resumes: bool) -> None:
    for name, value, reason in (
        ("runtimeVersion", config.runtime_version, "the image brings its TensorFlow along"),
        ("pythonVersion", config.python_version, "the image brings its Python along"),
        ("packageUris", config.package_uris, "the training is in the image, not in a package of yours"),
        ("pythonModule", config.python_module, "the training is in the image, not in a package of yours"),
        (
            "useChiefInTfConfig",
            config.use_chief_in_tf_config,
            "Vertex AI calls the first replica chief in any case",
        ),
        ("scheduling.priority", config.priority, "Vertex AI has no priorities among jobs"),
    ):
        if value:
            notices.ignored(name, reason)
    if config.hyperparameters and config.hyperparameters.resume_job and not resumes:
        notices.ignored(
            "hyperparameters.resumePreviousJobId",
            "neither Vertex AI nor Katib can resume a study: all trials start anew",
        )


def _scheduling(job: TrainingJob) -> dict[str, Any]:
    scheduling: dict[str, Any] = {}
    config = job.config
    if config.max_running_seconds is not None:
        scheduling["timeout"] = _duration(config.max_running_seconds)
    if job.strategy != "standard":
        scheduling["strategy"] = job.strategy.upper().replace("-", "_")
    if config.max_wait_seconds is not None and job.strategy == "flex-start":
        scheduling["maxWaitDuration"] = _duration(config.max_wait_seconds)
    return {"scheduling": scheduling} if scheduling else {}


def _duration(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _worker_pool_spec(pool: Pool, job: TrainingJob, image_of: Callable[[Machine], str]) -> dict[str, Any]:
    machine: dict[str, Any] = {"machineType": pool.machine.machine_type}
    if pool.machine.accelerator_type:
        machine["acceleratorType"] = pool.machine.accelerator_type
        machine["acceleratorCount"] = pool.machine.accelerator_count
    if pool.machine.tpu_topology:
        machine["tpuTopology"] = pool.machine.tpu_topology
    spec: dict[str, Any] = {
        "machineSpec": machine,
        "replicaCount": pool.replicas,
        "containerSpec": {
            "imageUri": pool.config.image_uri or image_of(pool.machine),
            "command": list(pool.config.command)
            or ["python", "-m", _MODULE[job.hyperparameters is not None]],
            "args": [*pool.config.arguments, *job.words],
        },
    }
    disk = {
        **({"bootDiskType": pool.config.disk_type} if pool.config.disk_type else {}),
        **({"bootDiskSizeGb": pool.config.disk_gb} if pool.config.disk_gb else {}),
    }
    return {**spec, "diskSpec": disk} if disk else spec
