"""Trains in a CustomJob: the command line that trains anywhere, on machines of Vertex AI."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import MANIFEST_NAME
from imgpipe.components.common.errors import InterruptedRunError, PipelineError
from imgpipe.components.common.log import log_event, log_result
from imgpipe.components.common.provenance import PROVENANCE_NAME, read_json_object
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.platforms.google_credentials import account_of_step
from imgpipe.components.platforms.vertex.client import is_plain_http
from imgpipe.components.platforms.vertex.job_requests import container_spec, custom_job, digest, job_spec
from imgpipe.components.platforms.vertex.jobs import CUSTOM_JOB, failure_of, run_job, state_of
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.command_line import command_line_arguments

COMMAND = ("python", "-m", "imgpipe.components.train")


def train_as_job(
    arguments: TrainingArguments,
    job: CustomJobArguments,
    run: RunArguments,
    dataset_folder: Path,
    model_folder: Path,
    gcp_resources: Path,
) -> dict[str, Any]:
    """Trains in a CustomJob and returns the best evaluation: step, accuracies, loss, and the ``model_type``.

    A step that starts again follows the job in ``gcp_resources``. If machines were preempted or unavailable,
    a new job is created, up to ``train_restarts`` times; it resumes from the checkpoints.

    Args:
        arguments: The training's arguments.
        job: The machines and settings of the job.
        run: The project, region and images.
        dataset_folder: The folder of the data set's manifest; the job's machines see it under the same path.
        model_folder: Written by the job.
        gcp_resources: The output ``gcp_resources``.

    Raises:
        PipelineError: the training's error, if it failed; InterruptedRunError if the job was cancelled.
    """
    args = training_command_line(arguments, dataset_folder, model_folder)
    failure: PipelineError | None = None
    for attempt in range(job.train_restarts + 1):
        request = functools.partial(custom_job_request, job, run, args, model_folder, attempt)
        ended = run_job(
            job.location(run),
            CUSTOM_JOB,
            request,
            gcp_resources,
            step="train",
            pipeline_run=run.pipeline_run,
            restart=attempt > 0,
        )
        failure = failure_of(ended)
        if failure is None:
            return _read_best_evaluation(model_folder)
        # A job that was cancelled is not restarted against the user's will.
        if not isinstance(failure, InterruptedRunError) or state_of(ended) == "CANCELLED":
            raise failure
        log_event(
            "job_interrupted", f"train: {failure.problem}", severity="WARNING", step="train", job=ended.name
        )
    assert failure is not None  # noqa: S101 - the loop ran at least once
    raise failure


def custom_job_request(
    job: CustomJobArguments, run: RunArguments, args: Sequence[str], model_folder: Path, attempt: int = 0
) -> dict[str, Any]:
    """Returns the request for a CustomJob.

    Args:
        job: The machines and settings of the job.
        run: The images, and the pipeline run.
        args: Arguments of the training.
        model_folder: Determines the label by which the job is found: no other step has this folder.
        attempt: How often the job was created before.
    """
    return custom_job(
        "imgpipe-train",
        training_job_spec(job, run, COMMAND, args),
        job_label=f"train-{digest(str(model_folder))}-{attempt}",
        **job.labels_and_key(run),
    )


def training_job_spec(
    job: CustomJobArguments,
    run: RunArguments,
    command: Sequence[str],
    args: Sequence[str],
    *,
    output_uri: str = "",
) -> dict[str, Any]:
    """Returns the CustomJobSpec of a training run; trials have the same one, with another command."""
    pools = [
        {
            "replicaCount": 1,
            **pool,
            "containerSpec": container_spec(
                job.train_image or run.image_for(pool.get("machineSpec", {})),
                command,
                args,
                pool.get("machineSpec", {}),
            ),
        }
        for pool in job.worker_pools()
    ]
    return job_spec(
        pools,
        strategy=job.train_strategy,
        timeout_seconds=job.train_timeout_seconds or None,
        max_wait_seconds=job.train_wait_seconds or None,
        service_account=job.service_account
        or ("" if is_plain_http(job.vertex_endpoint) else account_of_step()),
        network=job.network,
        output_uri=output_uri,
    )


def training_command_line(
    arguments: TrainingArguments, dataset_folder: Path, model_folder: Path
) -> list[str]:
    """Returns the arguments of the training.

    The step's Model artifact is ``job_dir/model``, so the checkpoints are beside it, and a new job resumes
    from them. The export step publishes the model to the user's own job_dir.
    """
    return [
        f"--dataset={dataset_folder / MANIFEST_NAME}",
        f"--job-dir={model_folder.parent}",
        *command_line_arguments(arguments),
    ]


def _read_best_evaluation(model_folder: Path) -> dict[str, Any]:
    provenance = read_json_object(
        model_folder / PROVENANCE_NAME,
        remedy="the job has succeeded, and must see the same bucket at /gcs: run it in the bucket's region "
        "and project",
    )
    step = provenance["best_step"]
    evaluations = provenance["evaluations"]
    best = next((evaluation for evaluation in evaluations if evaluation["step"] == step), {"step": step})
    accuracy = f"{best['top_1_accuracy']:.4f}" if "top_1_accuracy" in best else "unknown"
    log_result("train", f"best top-1 accuracy {accuracy}, at step {step:,}", training_step=step)
    return {**best, "model_type": provenance["model_type"]}
