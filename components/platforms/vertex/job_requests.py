"""Builds requests for jobs on Vertex AI, in the JSON form of its REST API."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgpipe.components.common.hyperparameters import GOAL, METRIC, Hyperparameters, TunedParameter
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE
from imgpipe.components.common.provenance import JOB_ID_VARIABLE
from imgpipe.components.common.tpu_plugin import TPU_PLUGIN_VARIABLE

# Vertex AI numbers its jobs, and only once they exist: jobs are found by these labels.
JOB_LABEL, REQUEST_LABEL = "imgpipe-job", "imgpipe-request"
# On a job that a pipeline step has created: the id of the pipeline run.
RUN_LABEL = "imgpipe-run"
STANDARD, SPOT, FLEX_START = STRATEGIES = ("standard", "spot", "flex-start")
# Machine types with GPUs built in: they may be given without an accelerator type.
_GPU_MACHINES = ("a2-", "a3-", "a4-", "a4x-", "g2-", "g4-")


def digest(text: str, length: int = 32) -> str:
    """Returns the beginning of the text's SHA-256, which is a valid value of a label."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def machine_spec(
    machine_type: str, accelerator_type: str = "", accelerator_count: int = 0, tpu_topology: str = ""
) -> dict[str, Any]:
    """Returns a MachineSpec."""
    spec: dict[str, Any] = {"machineType": machine_type}
    if accelerator_type:
        spec.update(acceleratorType=accelerator_type, acceleratorCount=accelerator_count)
    if tpu_topology:
        spec["tpuTopology"] = tpu_topology
    return spec


def machine_kind(spec: Mapping[str, Any]) -> str:
    """Returns ``cpu``, ``gpu`` or ``tpu``: which training image a MachineSpec needs."""
    accelerator = str(spec.get("acceleratorType", ""))
    if accelerator.startswith("TPU") or spec.get("tpuTopology"):
        return "tpu"
    has_gpus = accelerator.startswith("NVIDIA") or str(spec.get("machineType", "")).startswith(_GPU_MACHINES)
    return "gpu" if has_gpus else "cpu"


def worker_pool_spec(
    machine: Mapping[str, Any], replicas: int, *, disk_type: str = "", disk_gb: int = 0
) -> dict[str, Any]:
    """Returns a WorkerPoolSpec without its container."""
    disk: dict[str, Any] = {"bootDiskType": disk_type} if disk_type else {}
    if disk_gb:
        disk["bootDiskSizeGb"] = disk_gb
    pool = {"machineSpec": machine, "replicaCount": replicas}
    return {**pool, "diskSpec": disk} if disk else pool


def container_spec(
    image: str, command: Sequence[str], args: Sequence[str], machine: Mapping[str, Any], job_id: str = ""
) -> dict[str, Any]:
    """Returns the ContainerSpec of a worker pool.

    Args:
        image: The image.
        command: Its command.
        args: The command's arguments.
        machine: The MachineSpec of the pool.
        job_id: The id with which the user submits the job; empty = none.
    """
    # Cloud Logging parses JSON.
    env = {LOG_FORMAT_VARIABLE: JSON}
    if machine.get("tpuTopology"):
        env |= {TPU_PLUGIN_VARIABLE: "true"}
    if job_id:
        env |= {JOB_ID_VARIABLE: job_id}
    return {
        "imageUri": image,
        "command": list(command),
        "args": list(args),
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }


def job_spec(
    worker_pools: Sequence[Mapping[str, Any]],
    *,
    strategy: str = STANDARD,
    timeout_seconds: float | None = None,
    max_wait_seconds: float | None = None,
    service_account: str = "",
    network: str = "",
    enable_web_access: bool = False,
    output_uri: str = "",
) -> dict[str, Any]:
    """Returns a CustomJobSpec.

    Args:
        worker_pools: WorkerPoolSpecs with their containers.
        strategy: One of ``STRATEGIES``.
        timeout_seconds: None = Vertex AI's default, seven days.
        max_wait_seconds: How long ``flex-start`` waits for machines; ignored by the other strategies.
        service_account: Empty = Vertex AI's default.
        network: Empty = none.
        enable_web_access: Whether the containers have an interactive shell.
        output_uri: ``gs://`` folder below which every trial gets its own.
    """
    spec: dict[str, Any] = {"workerPoolSpecs": list(worker_pools)}
    scheduling: dict[str, Any] = {}
    if timeout_seconds is not None:
        scheduling["timeout"] = _duration(timeout_seconds)
    if strategy != STANDARD:
        scheduling["strategy"] = strategy.upper().replace("-", "_")
    if max_wait_seconds is not None and strategy == FLEX_START:
        scheduling["maxWaitDuration"] = _duration(max_wait_seconds)
    fields = {
        "scheduling": scheduling,
        "serviceAccount": service_account,
        "network": network,
        "enableWebAccess": enable_web_access,
        "baseOutputDirectory": {"outputUriPrefix": output_uri} if output_uri else {},
    }
    return {**spec, **{name: value for name, value in fields.items() if value}}


def _duration(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def custom_job(display_name: str, spec: Mapping[str, Any], **labels_and_key: Any) -> dict[str, Any]:
    """Returns a CustomJob.

    Args:
        display_name: The name that the console shows.
        spec: The CustomJobSpec.
        labels_and_key: See ``finish_request``.
    """
    return finish_request({"displayName": display_name, "jobSpec": spec}, **labels_and_key)


def tuning_job(
    display_name: str, trial_spec: Mapping[str, Any], request: Hyperparameters, **labels_and_key: Any
) -> dict[str, Any]:
    """Returns a HyperparameterTuningJob.

    Args:
        display_name: The name that the console shows.
        trial_spec: The CustomJobSpec of every trial.
        request: What is tuned, and how.
        labels_and_key: See ``finish_request``.
    """
    body: dict[str, Any] = {
        "displayName": display_name,
        "studySpec": study_spec(request),
        "maxTrialCount": request.max_trials,
        "parallelTrialCount": request.max_parallel_trials,
        "trialJobSpec": trial_spec,
    }
    if request.max_failed_trials:
        body["maxFailedTrialCount"] = request.max_failed_trials
    return finish_request(body, **labels_and_key)


def finish_request(
    body: Mapping[str, Any],
    *,
    job_label: str,
    labels: Mapping[str, str],
    encryption_key: str = "",
    run_id: str = "",
) -> dict[str, Any]:
    """Returns a request with its encryption key, and with the labels by which the job is found.

    Args:
        body: The request without labels.
        job_label: Value of ``JOB_LABEL``: a second request with it is either the same or rejected.
        labels: The user's labels.
        encryption_key: Cloud KMS key; empty = Google's.
        run_id: Value of ``RUN_LABEL``; empty = none.
    """
    request = dict(body)
    if encryption_key:
        request["encryptionSpec"] = {"kmsKeyName": encryption_key}
    request["labels"] = {
        **labels,
        **({RUN_LABEL: run_id} if run_id else {}),
        JOB_LABEL: job_label,
        REQUEST_LABEL: digest(json.dumps(request, sort_keys=True)),
    }
    return request


def study_spec(request: Hyperparameters) -> dict[str, Any]:
    """Returns the StudySpec of a tuning request.

    The objective of a trial is its best evaluation, because its best model is kept. Early stopping compares a
    trial with the median of the other trials at the same step.
    """
    spec: dict[str, Any] = {
        "metrics": [{"metricId": METRIC, "goal": GOAL}],
        "parameters": [_parameter_spec(parameter) for parameter in request.parameters],
        "measurementSelectionType": "BEST_MEASUREMENT",
    }
    if request.algorithm:
        spec["algorithm"] = request.algorithm
    if request.early_stopping:
        # Steps, not time: trials on machines of different speed stay comparable.
        spec["medianAutomatedStoppingSpec"] = {"useElapsedDuration": False}
    return spec


def _parameter_spec(parameter: TunedParameter) -> dict[str, Any]:
    spec: dict[str, Any] = {"parameterId": parameter.name}
    if parameter.scale != "NONE":
        spec["scaleType"] = parameter.scale
    if parameter.type == "DOUBLE":
        spec["doubleValueSpec"] = {"minValue": parameter.minimum, "maxValue": parameter.maximum}
    elif parameter.type == "INTEGER":
        spec["integerValueSpec"] = {"minValue": int(parameter.minimum), "maxValue": int(parameter.maximum)}
    elif parameter.type == "CATEGORICAL":
        spec["categoricalValueSpec"] = {"values": list(parameter.values)}
    else:
        spec["discreteValueSpec"] = {"values": list(parameter.values)}
    return spec
