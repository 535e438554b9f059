"""What can be asked of the jobs of any target: the same questions, the same form of answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError

# In which a job is no longer at work.
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED", "EXPIRED")


@dataclass(frozen=True)
class Job:
    """A job, a pipeline's run included.

    Attributes:
        job_id: As the user named it.
        target: Where it runs.
        kind: ``CustomJob``, ``HyperparameterTuningJob`` or ``pipeline run``.
        state: PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED, ... in one word.
        name: As the target calls it: a resource, a run's id, a folder.
        created: Time of creation, ISO 8601, UTC; empty if it is not known.
        ended: Time of the end; empty while it runs.
        error: Why it failed; empty if it did not.
        details: What else the target tells, e.g. the states of the steps.
    """

    job_id: str
    target: str
    kind: str
    state: str
    name: str
    created: str = ""
    ended: str = ""
    error: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """Runs of a pipeline that start by themselves.

    Attributes:
        name: As the user named it.
        target: Where they run.
        state: ACTIVE, PAUSED or COMPLETED.
        cron: When, in five fields: minute, hour, day of month, month, day of week.
        resource: As the target calls it.
        next_run: Time of the next run, ISO 8601; empty if it is not known.
        last_job: The run that started last, as the target calls it; empty if none did.
    """

    name: str
    target: str
    state: str
    cron: str
    resource: str
    next_run: str = ""
    last_job: str = ""


class Jobs(Protocol):
    """The jobs of one target."""

    def describe(self, job_id: str) -> Job:
        """Returns the job; MissingInputError if there is none of that name."""

    def list_jobs(self, most: int) -> list[Job]:
        """Returns the newest jobs, newest first."""

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yields the job's output a line at a time; with ``follow`` until the job has ended."""

    def cancel(self, job_id: str) -> None:
        """Stops the job; one that has ended is left alone."""


class Schedules(Protocol):
    """The schedules of one target."""

    def list_schedules(self) -> Sequence[Schedule]:
        """Returns all schedules of this project."""

    def pause_schedule(self, name: str) -> None:
        """Starts no more runs until it is resumed."""

    def resume_schedule(self, name: str) -> None:
        """Starts runs again, without those that were missed."""

    def delete_schedule(self, name: str) -> None:
        """Removes the schedule; runs that were started go on."""


def no_such_job(job_id: str, where: str) -> MissingInputError:
    """Returns the error for a job that is not there."""
    return MissingInputError(
        f"there is no job {job_id!r}", where=where, remedy="`imgpipe list` names the jobs of a target"
    )


def only_schedule(name: str, found: Sequence[Schedule], where: str) -> Schedule:
    """Returns the schedule of a name.

    Raises:
        MissingInputError: if there is none.
        InvalidArgumentError: if there are several.
    """
    for schedule in found:
        if name == schedule.resource:
            return schedule
    named = [schedule for schedule in found if name == schedule.name]
    if len(named) > 1:
        raise InvalidArgumentError(
            f"there are {len(named)} schedules {name!r}: {', '.join(one.resource for one in named)}",
            where=where,
            remedy="give one of these instead of the name, e.g. `imgpipe schedule delete` of all but one",
        )
    if named:
        return named[0]
    raise MissingInputError(
        f"there is no schedule {name!r}", where=where, remedy="`imgpipe schedule list` names them"
    )
