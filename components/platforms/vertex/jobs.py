"""Starts jobs of Vertex AI once, finds them again, and says how they ended."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    EXIT_CODE_INTERRUPTED,
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    PipelineError,
)
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.vertex.client import error_of_status, explained

# Labels by which a job is found again. Vertex AI gives its jobs numbers, and not until they are made.
JOB_LABEL, REQUEST_LABEL = "imgpipe-job", "imgpipe-request"
# Of a job that a pipeline's step has started: the id of the pipeline's run.
RUN_LABEL = "imgpipe-run"
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
_EXIT_STATUS = re.compile(r"non-zero (?:exit )?status(?: of)?:? (\d+)")


@dataclass(frozen=True)
class JobKind:
    """A kind of job and the methods of the client that handle it.

    Attributes:
        name: Of the message, e.g. ``CustomJob``.
        snake: In the names of methods, e.g. ``custom_job``.
    """

    name: str
    snake: str

    @property
    def collection(self) -> str:
        """As in a resource's name, e.g. ``customJobs``."""
        return f"{self.name[0].lower()}{self.name[1:]}s"


CUSTOM_JOB = JobKind("CustomJob", "custom_job")
TUNING_JOB = JobKind("HyperparameterTuningJob", "hyperparameter_tuning_job")
JOB_KINDS = (CUSTOM_JOB, TUNING_JOB)


def kind_of(resource_name: str) -> JobKind:
    """Returns the kind of a job by its resource name, ``projects/.../customJobs/1``."""
    collection = resource_name.split("/")[-2]
    return next(kind for kind in JOB_KINDS if kind.collection == collection)


def parsed(kind: JobKind, body: Mapping[str, Any]) -> Any:
    """Returns the message that a body in REST's JSON form says.

    Raises:
        InvalidArgumentError: for a field that the message does not have.
    """
    from google.cloud import aiplatform_v1
    from google.protobuf import json_format

    message = getattr(aiplatform_v1, kind.name)
    try:
        return message.wrap(json_format.Parse(json.dumps(dict(body)), message.pb(message())))
    except json_format.ParseError as error:
        raise InvalidArgumentError(
            f"the request is no {kind.name}: {error}", remedy="correct the worker pools or the labels"
        ) from None


def start_job(
    client: Any,
    parent: str,
    kind: JobKind,
    body: Mapping[str, Any],
    *,
    find: Callable[[], Any | None] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[Any, bool]:
    """Starts the job that carries these labels, unless it was started before.

    Args:
        client: A JobServiceClient.
        parent: ``projects/PROJECT/locations/REGION``.
        kind: Of the job.
        body: The request, with ``JOB_LABEL`` and ``REQUEST_LABEL`` among its labels.
        find: Returns what was started under this name before, or None; None = a job of this kind.
        pause: Waits between attempts.

    Returns:
        The job, and whether it was found rather than started.

    Raises:
        InvalidArgumentError: if another request was sent under this job id, or Vertex AI refuses this one.
        InterruptedRunError: if Vertex AI cannot be reached.
        UnavailableError: for missing permissions or quota.
    """
    message = parsed(kind, body)

    def find_or_create() -> tuple[Any, bool]:
        found = find() if find else find_job(client, parent, kind, body["labels"][JOB_LABEL])
        if found is not None:
            return same_request(found, body), True
        with explained(f"create the {kind.name}"):
            create = getattr(client, f"create_{kind.snake}")
            return create(parent=parent, **{kind.snake: message}, timeout=60), False

    return retry(find_or_create, sleep=pause)


def find_job(
    client: Any,
    parent: str,
    kind: JobKind,
    job_label: str,
    *,
    matches: Callable[[Any], bool] = lambda _: True,
) -> Any | None:
    """Returns the newest job with a label that matches, or None."""
    with explained(f"list the {kind.collection}"):
        listed = getattr(client, f"list_{kind.snake}s")(
            request={"parent": parent, "filter": f'labels.{JOB_LABEL}="{job_label}"'}
        )
        return next(filter(matches, listed), None)


def get_job(client: Any, name: str) -> Any:
    """Returns the job as it stands now."""
    with explained(f"read {name}"):
        return getattr(client, f"get_{kind_of(name).snake}")(name=name)


def cancel_job(client: Any, name: str) -> None:
    """Asks Vertex AI to stop the job."""
    with explained(f"cancel {name}"):
        getattr(client, f"cancel_{kind_of(name).snake}")(name=name)


def state_of(job: Any) -> str:
    """Returns a job's state in one word: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED, ..."""
    return re.sub("^(JOB|PIPELINE)_STATE_", "", job.state.name)


def has_ended(job: Any) -> bool:
    """Tells whether nothing more will happen to the job."""
    return state_of(job) in _ENDED


def failure_of(job: Any) -> PipelineError | None:
    """Returns how a job that has ended failed, or None if it succeeded.

    The container's exit status tells our own errors apart: a mistake in the data comes back as that, and not
    as something that a retry could mend.
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
        error = error_of_status(job.error.code, f"the job failed: {job.error.message or state}")
        error.where = where
        return error
    code = int(status.group(1))
    if code in (137, 143):
        remedy = "if the machine ran out of memory (137), lower train_batch_size or take a larger machine"
        return InternalError(f"the training was killed (exit status {code})", where=where, remedy=remedy)
    error_class = next((one for one in ERROR_CLASSES if one.exit_code == code), InternalError)
    remedy = "its logs say why, in the line `step_failed`"
    if code == EXIT_CODE_INTERRUPTED:
        remedy = "start it again: it resumes from its checkpoints"
    return error_class(f"the training ended with exit status {code}", where=where, remedy=remedy)


def same_request(found: Any, body: Mapping[str, Any]) -> Any:
    """Returns what was found under a name.

    Raises:
        InvalidArgumentError: if it was started by another request.
    """
    if found.labels.get(REQUEST_LABEL) != body["labels"][REQUEST_LABEL]:
        raise InvalidArgumentError(
            f"the job id {found.display_name!r} was used for another request",
            where=found.name,
            remedy="give a new job id, or look at the old one with `imgpipe describe`",
        )
    return found
