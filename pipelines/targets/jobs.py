"""What is known of the jobs and schedules of every target."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError

# States of a job that has ended.
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED", "EXPIRED")


@dataclass(frozen=True)
class Job:
    """A job or a pipeline run.

    Attributes:
        job_id: Name that the user gave it.
        target: ``local``, ``kubeflow`` or ``vertex``.
        kind: ``CustomJob``, ``HyperparameterTuningJob`` or ``pipeline run``.
        state: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED, ...
        name: Identifier on the target: a resource name, a run's id, a folder.
        namespace: On Kubeflow with several users, the namespace of the run; otherwise empty.
        created: Creation time, ISO 8601, UTC; empty if unknown.
        ended: End time; empty while it runs.
        error: Why it failed; otherwise empty.
        details: Further information from the target, e.g. the states of the steps.
    """

    job_id: str
    target: str
    kind: str
    state: str
    name: str
    namespace: str = ""
    created: str = ""
    ended: str = ""
    error: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """Pipeline runs that start at the times of a cron expression.

    Attributes:
        name: Name that the user gave it.
        target: ``kubeflow`` or ``vertex``.
        state: ACTIVE, PAUSED or COMPLETED.
        cron: Five fields: minute, hour, day of month, month, day of week.
        resource: Identifier on the target.
        time_zone: The time zone of cron.
        next_run: Time of the next run, ISO 8601, UTC; empty if unknown.
        last_job: Identifier of the latest run; empty if there is none.
    """

    name: str
    target: str
    state: str
    cron: str
    resource: str
    time_zone: str = "UTC"
    next_run: str = ""
    last_job: str = ""


def with_same_id(jobs: Sequence[Job]) -> Job:
    """Returns the job that an id stands for: the oldest that runs, or else the oldest.

    Several jobs have one id if a client was killed after two had submitted it at the same time. ``details``
    of the job lists the others as ``same_id``.
    """
    first, *others = sorted(jobs, key=lambda job: (job.state in ENDED, job.created, job.name))
    if not others:
        return first
    same_id = [{"name": job.name, "state": job.state, "created": job.created} for job in others]
    return dataclasses.replace(first, details={**first.details, "same_id": same_id})


def no_such_job(job_id: str, where: str) -> MissingInputError:
    """Returns the error for a job that does not exist."""
    return MissingInputError(
        f"there is no job {job_id!r}", where=where, remedy="list the jobs with `imgpipe list`"
    )


def only_schedule(name: str, found: Sequence[Schedule], where: str) -> Schedule:
    """Returns the only schedule with a name or resource.

    Raises:
        MissingInputError: if there is none.
        InvalidArgumentError: if there are several.
    """
    for schedule in found:
        if name == schedule.resource:
            return schedule
    named = [schedule for schedule in found if name == schedule.name]
    if len(named) > 1:
        resources = ", ".join(schedule.resource for schedule in named)
        raise InvalidArgumentError(
            f"there are {len(named)} schedules named {name!r}: {resources}",
            where=where,
            remedy="use one of these instead of the name; `imgpipe schedule delete` deletes the others",
        )
    if named:
        return named[0]
    raise MissingInputError(
        f"there is no schedule {name!r}", where=where, remedy="list them with `imgpipe schedule list`"
    )
