"""Creates jobs on Vertex AI without duplicates, follows them to their end, and explains how they ended."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import (
    EXIT_CODE_INTERRUPTED,
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    PipelineError,
    error_class_of,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.polling import poll, retry
from imgpipe.components.platforms.submission import create_once
from imgpipe.components.platforms.termination import end_job_if_stopped
from imgpipe.components.platforms.vertex.client import VertexLocation
from imgpipe.components.platforms.vertex.errors import error_of_status, translate_errors
from imgpipe.components.platforms.vertex.job_requests import JOB_LABEL, REQUEST_LABEL
from imgpipe.components.storage import atomic_write

_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
_RESOURCE_NAME = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+/\w+/[^/]+)$")
_EXIT_STATUS = re.compile(r"non-zero (?:exit )?status(?: of)?:? (\d+)")


@dataclass(frozen=True)
class JobKind:
    """A kind of job and the client methods that handle it.

    Attributes:
        name: Name of the message, e.g. ``CustomJob``.
        method_suffix: Suffix of the client's methods, e.g. ``custom_job``.
        service: The client that has these methods.
    """

    name: str
    method_suffix: str
    service: str = "JobServiceClient"

    @property
    def collection(self) -> str:
        """The collection in a resource name, e.g. ``customJobs``."""
        return f"{self.name[0].lower()}{self.name[1:]}s"


CUSTOM_JOB = JobKind("CustomJob", "custom_job")
TUNING_JOB = JobKind("HyperparameterTuningJob", "hyperparameter_tuning_job")
PIPELINE_JOB = JobKind("PipelineJob", "pipeline_job", "PipelineServiceClient")
JOB_KINDS = (CUSTOM_JOB, TUNING_JOB, PIPELINE_JOB)


def kind_of(resource_name: str) -> JobKind | None:
    """Returns the kind of a job by its resource name, ``projects/.../customJobs/1``; None for others."""
    return next((kind for kind in JOB_KINDS if f"/{kind.collection}/" in resource_name), None)


def parse_message(name: str, body: Mapping[str, Any]) -> Any:
    """Converts a resource in the JSON form of the REST API to the client library's message.

    Args:
        name: Class name of the message, e.g. ``CustomJob``.
        body: The resource.

    Raises:
        InvalidArgumentError: if the message has no such field.
    """
    from google.cloud import aiplatform_v1
    from google.protobuf import json_format

    message = getattr(aiplatform_v1, name)
    try:
        return message.wrap(json_format.Parse(json.dumps(dict(body)), message.pb(message())))
    except json_format.ParseError as error:
        raise InvalidArgumentError(
            f"the request is not a valid {name}: {error}", remedy="correct the worker pools or the labels"
        ) from None


def run_job(
    location: VertexLocation,
    kind: JobKind,
    make_body: Callable[[], Mapping[str, Any]],
    gcp_resources: Path,
    *,
    step: str,
    pipeline_run: str = "",
    restart: bool = False,
    on_response: Callable[[Any], None] = lambda _: None,
) -> Any:
    """Runs a job for a pipeline step and returns it when it has ended, however it ended.

    The job is written to ``gcp_resources`` before it is followed; a step that starts again follows the job
    written there. Each new state is logged. The job is cancelled if the user cancels the run, or the step
    fails; it is left running if a step that runs again can follow it: see ``end_job_if_stopped``.

    Args:
        location: Where the job runs.
        kind: The kind of the job.
        make_body: Returns the request; called only if a job has to be created.
        gcp_resources: The step's output ``gcp_resources``.
        step: For the log.
        pipeline_run: Resource name of the PipelineJob that the step belongs to; "" on other platforms.
        restart: Whether to create a new job although ``gcp_resources`` names one.
        on_response: Called with the job after every poll.

    Raises:
        PipelineError: if the job cannot be created.
        InterruptedRunError: if Vertex AI does not respond for an hour; the job is left running.
    """
    name = "" if restart else read_job(gcp_resources)
    if not name:
        # The label is that of this step alone.
        job, _ = start_job(location, kind, make_body(), concurrent=False)
        name = job.name
        write_job(gcp_resources, kind.name, name)
    log_event("job_started", f"{step}: following {name}", step=step, job=name)
    last_state = ""

    def log_state(job: Any) -> None:
        nonlocal last_state
        state = state_of(job)
        if state != last_state:
            log_event("job_state", f"{step}: {name} is {state}", step=step, job=name, state=state)
        last_state = state
        on_response(job)

    def run_is_stopped() -> bool:
        if pipeline_run:
            return _is_cancelled(location.with_new_connections(), pipeline_run)
        # Imported here because Vertex AI needs no client for Kubernetes.
        from imgpipe.components.platforms.kubernetes.workflow import own_stop_reason

        return bool(own_stop_reason())

    def cancel() -> None:
        cancel_job(location.with_new_connections(), name)

    with end_job_if_stopped(
        step, name, end=cancel, is_stopped=run_is_stopped, by_hand=_cancel_command(location, name)
    ):
        try:
            return poll(
                lambda: get_job(location, name),
                lambda job: state_of(job) in _ENDED,
                on_response=log_state,
            )
        except PipelineError as error:
            if not isinstance(error, InterruptedRunError | InvalidResponseError):
                # The step does not run again: without it, the job's result is not used.
                try:
                    log_event("job_cancelled", f"{step}: failed, cancelling {name}", step=step, job=name)
                    cancel()
                except PipelineError:
                    log_event("job_left", f"step {step}: {name} cannot be cancelled", severity="WARNING")
                else:
                    raise
            raise type(error)(
                f"{error.problem}; {name} may still be running",
                where=error.where or name,
                remedy="run the step again: it follows the job; or stop the job: "
                + _cancel_command(location, name),
            ) from None


def write_job(path: Path, resource_type: str, name: str) -> None:
    """Writes the output ``gcp_resources``: the job that a step has created.

    Vertex AI's console uses it to link the step to the job, and a restarted step to find its job. The format
    is that of Google's pipeline components (``gcp_launcher.proto``).

    Args:
        path: The output's file.
        resource_type: E.g. ``CustomJob``.
        name: ``projects/P/locations/R/customJobs/N``.
    """
    region = name.split("/")[3]
    uri = f"https://{region}-aiplatform.googleapis.com/v1/{name}"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"resources": [{"resourceType": resource_type, "resourceUri": uri}]}))


def read_job(path: Path) -> str:
    """Returns the resource name of the job, or "" if none was written."""
    try:
        resources = json.loads(path.read_text())["resources"]
        match = _RESOURCE_NAME.search(resources[0]["resourceUri"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return match.group(1) if match else ""


def _is_cancelled(location: VertexLocation, pipeline_run: str) -> bool:
    """Returns whether a PipelineJob was cancelled; False if Vertex AI does not say."""
    try:
        return state_of(get_job(location, pipeline_run)) in ("CANCELLING", "CANCELLED")
    except PipelineError as error:
        log_event(
            "cancellation_unknown",
            f"cannot determine whether the run was cancelled: {error.problem}",
            severity="WARNING",
        )
        return False


def _cancel_command(location: VertexLocation, name: str) -> str:
    return f"imgpipe cancel {name} --target vertex --project {location.project} --region {location.region}"


def start_job(
    location: VertexLocation,
    kind: JobKind,
    body: Mapping[str, Any],
    *,
    find: Callable[[], Sequence[Any]] | None = None,
    resource_id: str = "",
    concurrent: bool = True,
) -> tuple[Any, bool]:
    """Creates a job unless a job with its label exists; of several created at the same time, one remains.

    Args:
        location: Where the job runs.
        kind: The kind of the job.
        body: The request, with ``JOB_LABEL`` and ``REQUEST_LABEL`` among its labels.
        find: Returns the existing jobs; by default, those of this kind with the label.
        resource_id: The last part of the resource name, for a ``PipelineJob``.
        concurrent: False = no other client creates a job with the label.

    Returns:
        The job, and whether it existed.

    Raises:
        InvalidArgumentError: if the job id was used for a different request, or Vertex AI rejects this one.
        InterruptedRunError: if Vertex AI cannot be reached.
        UnavailableError: for missing permissions or quota.
    """
    from google.api_core.exceptions import Conflict

    client = location.client(kind.service)
    fields = {kind.method_suffix: parse_message(kind.name, body)}
    if resource_id:
        fields[f"{kind.method_suffix}_id"] = resource_id

    class ExistsError(Exception):
        """The resource id is in use."""

    def create() -> Any:
        with translate_errors(f"create the {kind.name}", needs_machines=True):
            try:
                return getattr(client, f"create_{kind.method_suffix}")(parent=location.parent, **fields)
            except Conflict:
                if resource_id:
                    raise ExistsError from None
                raise

    try:
        return create_once(
            find or (lambda: find_jobs(location, kind, body["labels"][JOB_LABEL])),
            create,
            check=lambda job: check_same_request(job, body),
            end=lambda job: None if state_of(job) in _ENDED else cancel_job(location, job.name),
            identify=lambda job: str(job.name),
            created=lambda job: job.create_time.timestamp() if job.create_time else 0.0,
            has_ended=lambda job: state_of(job) in _ENDED,
            concurrent=concurrent,
        )
    except ExistsError:
        name = f"{location.parent}/{kind.collection}/{resource_id}"
        found = retry(lambda: get_job(location, name))
        check_same_request(found, body)
        return found, True


def list_jobs(
    location: VertexLocation, kind: JobKind, job_filter: str, *, limit: int | None = None
) -> list[Any]:
    """Returns the jobs of a kind that match a filter of the API, newest first, at most ``limit``."""
    list_method = getattr(location.client(kind.service), f"list_{kind.method_suffix}s")
    request = {"parent": location.parent, "filter": job_filter, "page_size": limit or 0}

    def list_pages() -> list[Any]:
        with translate_errors(f"list the {kind.collection}"):
            return list(islice(list_method(request=request), limit))

    return retry(list_pages)


def find_jobs(location: VertexLocation, kind: JobKind, label: str) -> list[Any]:
    """Returns the jobs of a kind with a ``JOB_LABEL``, without the runs that a schedule has started."""
    jobs = list_jobs(location, kind, f"labels.{JOB_LABEL}={quoted(label)}")
    return [job for job in jobs if not getattr(job, "schedule_name", "")]


def quoted(text: str) -> str:
    """Returns a text as a string of the API's filter language."""
    return json.dumps(text, ensure_ascii=False)


def get_job(location: VertexLocation, name: str) -> Any:
    """Returns the current state of a job."""
    return _call("get", "read", location, name)


def cancel_job(location: VertexLocation, name: str) -> None:
    """Requests that Vertex AI stop a job; does nothing if it has ended."""
    try:
        retry(lambda: _call("cancel", "cancel", location, name))
    except InvalidArgumentError:
        # It may have ended in the meantime.
        if state_of(retry(lambda: get_job(location, name))) not in (*_ENDED, "CANCELLING"):
            raise


def _call(method: str, action: str, location: VertexLocation, name: str) -> Any:
    kind = kind_of(name)
    assert kind is not None  # noqa: S101 - callers pass names of jobs
    with translate_errors(f"{action} {name}"):
        return getattr(location.client(kind.service), f"{method}_{kind.method_suffix}")(name=name)


def state_of(job: Any) -> str:
    """Returns the state of a job: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED, ..."""
    return re.sub("^(JOB|PIPELINE)_STATE_", "", job.state.name)


def failure_of(job: Any) -> PipelineError | None:
    """Returns the error of a job that has ended, or None if it succeeded.

    The container's exit status selects the error class: a mistake in the data is reported as
    ``InvalidDataError``, not as an error that a retry could fix.
    """
    state = state_of(job)
    if state == "SUCCEEDED":
        return None
    where = job.name
    if state in ("CANCELLED", "EXPIRED"):
        return InterruptedRunError(
            f"the job was {'cancelled' if state == 'CANCELLED' else 'not started in time'}",
            where=where,
            remedy="start it again",
        )
    status = _EXIT_STATUS.search(job.error.message)
    if status is None:
        return error_of_status(job.error.code, f"the job failed: {job.error.message or state}", where=where)
    code = int(status.group(1))
    if code in (137, 143):
        remedy = "if the machine ran out of memory (137), lower train_batch_size or use a larger machine"
        return InternalError(f"the training was killed (exit status {code})", where=where, remedy=remedy)
    error_class = error_class_of(code, InternalError)
    remedy = "see the line `step_failed` in its logs"
    if code == EXIT_CODE_INTERRUPTED:
        remedy = "start it again: it resumes from its checkpoints"
    return error_class(f"the training ended with exit status {code}", where=where, remedy=remedy)


def check_same_request(job: Any, body: Mapping[str, Any]) -> None:
    """Rejects a request under the job id of a different request.

    Raises:
        InvalidArgumentError: naming the job id.
    """
    if job.labels.get(REQUEST_LABEL) != body["labels"][REQUEST_LABEL]:
        raise InvalidArgumentError(
            f"the job id {job.display_name!r} was used for another request",
            where=job.name,
            remedy="use a new job id, or see the existing job with `imgpipe describe`",
        )
