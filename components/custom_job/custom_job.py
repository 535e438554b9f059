"""Runs the training as a CustomJob: the same command line that runs anywhere, on machines rented for it."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import TRAIN, VALIDATION, Manifest, Split, read_manifest
from imgpipe.components.common.errors import InterruptedRunError, MissingInputError, PipelineError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.platforms.vertex.client import service_client
from imgpipe.components.platforms.vertex.follow import follow_job
from imgpipe.components.platforms.vertex.jobs import (
    CUSTOM_JOB,
    JOB_LABEL,
    REQUEST_LABEL,
    RUN_LABEL,
    failure_of,
    get_job,
    start_job,
)
from imgpipe.components.platforms.vertex.resources import read_job, write_job
from imgpipe.components.storage.files import joined, written_whole
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.command_line import command_line_arguments, shards_pattern


def train_as_job(
    arguments: TrainingArguments,
    job: CustomJobArguments,
    run: RunArguments,
    dataset_folder: Path,
    model_folder: Path,
    resources: Path,
) -> dict[str, Any]:
    """Trains and returns the best evaluation: its step, accuracies and loss.

    The job is written to ``resources`` before it is followed. A step that is started again goes on with the
    job that is written there. Where the machines were taken away or not to be had, the training is started
    again, ``train_restarts`` times at most: it resumes from its checkpoints.

    Args:
        arguments: How to train.
        job: On what to train.
        run: Where.
        dataset_folder: The data set's manifest lies there; seen from the job's machines under the same path.
        model_folder: To be written, by the job.
        resources: The output ``gcp_resources``.

    Raises:
        PipelineError: as the training, if it failed; InterruptedRunError if the job was cancelled.
    """
    manifest = read_manifest(dataset_folder)
    words = training_words(arguments, manifest, dataset_folder, model_folder)
    new_client = functools.partial(service_client, "JobServiceClient", run.region, job.vertex_endpoint)
    client = new_client()
    parent = f"projects/{run.project}/locations/{run.region}"
    failure: PipelineError | None = None
    for attempt in range(job.train_restarts + 1):
        name = read_job(resources)
        if not name or attempt:
            body = custom_job_body(job, run, words, model_folder, attempt)
            started, _ = start_job(client, parent, CUSTOM_JOB, body)
            name = started.name
            write_job(resources, CUSTOM_JOB.name, name)
        log_event("job_started", f"train: following {name}", step="train", job=name)
        ended = follow_job(new_client, name, step="train")
        failure = failure_of(ended)
        if failure is None:
            return _best(model_folder)
        if not isinstance(failure, InterruptedRunError) or _was_cancelled(client, name):
            raise failure
        log_event("job_interrupted", f"train: {failure.problem}", severity="WARNING", step="train", job=name)
    assert failure is not None  # noqa: S101 - the loop ran at least once
    raise failure


def custom_job_body(
    job: CustomJobArguments, run: RunArguments, words: list[str], model_folder: Path, attempt: int = 0
) -> dict[str, Any]:
    """Returns the request for a CustomJob in the JSON form of Vertex AI's REST interface.

    Args:
        job: On what to train.
        run: Whose images are meant.
        words: The training's arguments.
        model_folder: Decides the job's name: the step's own folder is no other's.
        attempt: How often the job was started before.
    """
    pools = []
    for pool in job.worker_pools():
        machine = pool.get("machineSpec", {})
        container = {
            "imageUri": job.train_image or run.image_for(machine),
            "command": ["python", "-m", "imgpipe.components.train"],
            "args": words,
        }
        pools.append({"replicaCount": 1, **pool, "containerSpec": container})
    spec: dict[str, Any] = {"workerPoolSpecs": pools, **_scheduling(job)}
    account = job.service_account or _own_account(job)
    if account:
        spec["serviceAccount"] = account
    if job.network:
        spec["network"] = job.network
    body: dict[str, Any] = {"displayName": "imgpipe-train", "jobSpec": spec}
    if job.encryption_key:
        body["encryptionSpec"] = {"kmsKeyName": job.encryption_key}
    # Under the run's own id, the logs of a pipeline's run have those of its training too.
    run_id = run.pipeline_run.rpartition("/")[2]
    body["labels"] = {
        **job.job_labels(),
        **({RUN_LABEL: run_id} if run_id else {}),
        JOB_LABEL: f"train-{_digest(str(model_folder))}-{attempt}",
        REQUEST_LABEL: _digest(json.dumps(body, sort_keys=True)),
    }
    return body


def training_words(
    arguments: TrainingArguments, manifest: Manifest, dataset_folder: Path, model_folder: Path
) -> list[str]:
    """Returns the command line of the training.

    ``job_dir/model`` is the step's Model artifact, so that checkpoints lie beside it: a job that is started
    again goes on from them. The user's own job_dir gets the model from the export step.
    """
    labels_file = model_folder.parent / "labels.txt"
    with written_whole(labels_file) as temporary:
        temporary.write_text("".join(f"{label}\n" for label in manifest.labels), encoding="utf-8")
    return [
        f"--training_data_path={_pattern(manifest.splits[TRAIN], dataset_folder)}",
        f"--validation_data_path={_pattern(manifest.splits[VALIDATION], dataset_folder)}",
        f"--labels_file={labels_file}",
        f"--job-dir={model_folder.parent}",
        *command_line_arguments(arguments),
    ]


def _pattern(split: Split, folder: Path) -> str:
    return shards_pattern([joined(str(folder), shard.path) for shard in split.shards])


def _scheduling(job: CustomJobArguments) -> dict[str, Any]:
    scheduling: dict[str, Any] = {}
    if job.train_timeout_seconds:
        scheduling["timeout"] = f"{job.train_timeout_seconds}s"
    if job.train_strategy != "standard":
        scheduling["strategy"] = job.train_strategy.upper().replace("-", "_")
    if job.train_wait_seconds and job.train_strategy == "flex-start":
        scheduling["maxWaitDuration"] = f"{job.train_wait_seconds}s"
    return {"scheduling": scheduling} if scheduling else {}


def _own_account(job: CustomJobArguments) -> str:
    """Returns the account of this step, which is the run's own; "" if it has none (not on Google Cloud)."""
    if job.vertex_endpoint.startswith("http://"):
        return ""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        credentials.refresh(Request())
    except GoogleAuthError:
        return ""
    account = getattr(credentials, "service_account_email", "")
    return account if "@" in account else ""


def _was_cancelled(client: Any, name: str) -> bool:
    """Tells whether somebody stopped the job: then it is not started again behind their back."""
    return bool(get_job(client, name).state.name.endswith("CANCELLED"))


def _best(model_folder: Path) -> dict[str, Any]:
    try:
        provenance: Mapping[str, Any] = json.loads((model_folder / "provenance.json").read_text("utf-8"))
    except OSError as error:
        raise MissingInputError(
            f"the job succeeded, but its model is not at {str(model_folder)!r}: {error.strerror}",
            remedy="the job must see the same bucket at /gcs: use its own region and project",
        ) from None
    step = provenance["best_step"]
    best = next((one for one in provenance["evaluations"] if one["step"] == step), {"step": step})
    accuracy = f"{best['top_1_accuracy']:.4f}" if "top_1_accuracy" in best else "unknown"
    log_result("train", f"best top-1 accuracy {accuracy}, at step {step:,}", training_step=step)
    return dict(best)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
