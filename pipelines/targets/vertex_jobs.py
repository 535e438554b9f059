"""The jobs, pipeline runs and schedules of a project on Vertex AI."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.submission import create_once
from imgpipe.components.platforms.vertex.client import VertexLocation, wait_for
from imgpipe.components.platforms.vertex.cloud_logging import CloudLogging
from imgpipe.components.platforms.vertex.errors import translate_errors
from imgpipe.components.platforms.vertex.job_requests import (
    JOB_LABEL,
    REQUEST_LABEL,
    RUN_LABEL,
    digest,
    finish_request,
)
from imgpipe.components.platforms.vertex.jobs import (
    CUSTOM_JOB,
    JOB_KINDS,
    PIPELINE_JOB,
    TUNING_JOB,
    JobKind,
    cancel_job,
    find_jobs,
    get_job,
    kind_of,
    list_jobs,
    parse_message,
    quoted,
    start_job,
    state_of,
)
from imgpipe.pipelines.ai_platform import job_label
from imgpipe.pipelines.cron import time_zone
from imgpipe.pipelines.targets.jobs import ENDED, Job, Schedule, no_such_job, only_schedule, with_same_id

_LOG_PAUSE_SECONDS = 5.0
_DELETION_SECONDS = 120.0


@dataclass
class VertexJobs:
    """The jobs, pipeline runs and schedules of a project in a region.

    Attributes:
        location: Project, region and endpoint.
    """

    location: VertexLocation

    def submit(self, kind_name: str, body: Mapping[str, Any]) -> tuple[Job, bool]:
        """Creates a job of a kind, e.g. ``CustomJob``, unless it exists; returns it, and whether it existed.

        Raises:
            InvalidArgumentError: if the job id was used for a different request.
            PipelineError: if Vertex AI rejects the request or cannot be reached.
        """
        return self._start(next(kind for kind in JOB_KINDS if kind.name == kind_name), body)

    def submit_pipeline(self, body: Mapping[str, Any]) -> tuple[Job, bool]:
        """Creates a pipeline run unless it exists; see ``submit``."""
        return self._start(PIPELINE_JOB, body, resource_id=pipeline_job_id(body["displayName"]))

    def _start(self, kind: JobKind, body: Mapping[str, Any], *, resource_id: str = "") -> tuple[Job, bool]:
        job, found = start_job(
            self.location,
            kind,
            body,
            find=lambda: self._find_submitted(body["labels"][JOB_LABEL], kind),
            resource_id=resource_id,
        )
        return _describe(job), found

    def _find_submitted(self, label: str, first_kind: JobKind) -> list[Any]:
        """Returns the jobs of all kinds that were submitted with a label; those of one kind come first."""
        kinds = sorted(JOB_KINDS, key=lambda kind: kind != first_kind)
        return [job for kind in kinds for job in find_jobs(self.location, kind, label)]

    def describe(self, job_id: str) -> Job:
        """Returns the job or run with a job id or resource name; ``details`` lists others with the id."""
        return with_same_id([_describe(job) for job in self._find(job_id)])

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest jobs and runs that imgpipe created, newest first."""
        jobs = [
            _describe(job)
            for kind in JOB_KINDS
            for job in list_jobs(self.location, kind, f"labels.{JOB_LABEL}:*", limit=limit)
            if JOB_LABEL in job.labels
        ]
        return sorted(jobs, key=lambda job: job.created, reverse=True)[:limit]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yields the log lines of the job's machines from Cloud Logging.

        The lines of a pipeline run are those of its steps.
        """
        job = self._read(self.describe(job_id).name)
        shown: set[str] = set()
        since = ""
        while True:
            ended = state_of(job) in ENDED
            for entry in self._log.entries(self._log_filter(job), since):
                if entry["insertId"] not in shown:
                    shown.add(entry["insertId"])
                    since = entry["timestamp"]
                    yield _line(entry)
            if ended or not follow:
                return
            time.sleep(_LOG_PAUSE_SECONDS)
            # The job is read before its last lines, so that none of them is missed.
            job = self._read(job.name)

    def cancel(self, job_id: str) -> None:
        """Requests that Vertex AI stop every job with the id."""
        for job in self._find(job_id):
            if state_of(job) not in ENDED:
                cancel_job(self.location, job.name)

    def create_schedule(self, name: str, cron: str, pipeline_job: Mapping[str, Any]) -> tuple[Schedule, bool]:
        """Creates a schedule unless it exists.

        Args:
            name: Name of the schedule.
            cron: Five fields, optionally after a time zone.
            pipeline_job: Result of ``pipeline_job_body``.

        Returns:
            The schedule, and whether it existed.

        Raises:
            InvalidArgumentError: if a schedule of that name has another time or pipeline.
        """
        schedule = parse_message("Schedule", schedule_body(name, cron, self.location.parent, pipeline_job))

        def create() -> Any:
            with translate_errors("create the schedule"):
                return self._schedule_client.create_schedule(parent=self.location.parent, schedule=schedule)

        def check(existing: Any) -> None:
            labels = existing.create_pipeline_job_request.pipeline_job.labels
            if (existing.cron, labels[REQUEST_LABEL]) != (cron, pipeline_job["labels"][REQUEST_LABEL]):
                raise InvalidArgumentError(
                    f"there is already a schedule {name!r} with another "
                    + ("time" if existing.cron != cron else "pipeline, image, argument, account or root"),
                    remedy="delete it first, or use another name",
                )

        created, existed = create_once(
            lambda: [found for found in self._schedules() if found.display_name == name],
            create,
            check=check,
            end=lambda duplicate: self._delete(duplicate.name),
            identify=lambda found: str(found.name),
            created=lambda found: found.create_time.timestamp() if found.create_time else 0.0,
        )
        return _schedule(created), existed

    def list_schedules(self) -> list[Schedule]:
        """Returns the schedules that imgpipe created."""
        return [_schedule(found) for found in self._schedules()]

    def _schedules(self) -> list[Any]:
        def list_pages() -> list[Any]:
            with translate_errors("list the schedules"):
                return list(self._schedule_client.list_schedules(parent=self.location.parent))

        return [
            schedule
            for schedule in retry(list_pages)
            if JOB_LABEL in schedule.create_pipeline_job_request.pipeline_job.labels
        ]

    def pause_schedule(self, name: str) -> None:
        """Starts no more runs until the schedule is resumed."""
        self._change("pause", self._schedule_resource(name))

    def resume_schedule(self, name: str) -> None:
        """Starts runs again, except those that were missed."""
        self._change("resume", self._schedule_resource(name))

    def delete_schedule(self, name: str) -> None:
        """Deletes the schedule; runs that it has started continue."""
        self._delete(self._schedule_resource(name))

    def _delete(self, resource: str) -> None:
        operation = self._change("delete", resource)
        with translate_errors(f"delete {resource}"):
            wait_for(operation, _DELETION_SECONDS, self._schedule_client)

    def _change(self, verb: str, resource: str) -> Any:
        def request() -> Any:
            with translate_errors(f"{verb} {resource}"):
                return getattr(self._schedule_client, f"{verb}_schedule")(name=resource)

        return retry(request)

    def _schedule_resource(self, name: str) -> str:
        return only_schedule(name, self.list_schedules(), self.location.parent).resource

    @cached_property
    def _log(self) -> CloudLogging:
        return CloudLogging(self.location)

    @property
    def _schedule_client(self) -> Any:
        return self.location.client("ScheduleServiceClient")

    def _find(self, job_id: str) -> list[Any]:
        """Returns the jobs with a job id, or the one with a resource name."""
        if job_id.startswith("projects/"):
            if kind_of(job_id) is None:
                raise no_such_job(job_id, self.location.parent)
            return [self._read(job_id)]
        jobs = self._find_submitted(job_label(job_id), CUSTOM_JOB)
        if not jobs:
            # Runs of the schedule of that name: the newest.
            label_filter = f"labels.{JOB_LABEL}={quoted(job_label(job_id))}"
            jobs = list_jobs(self.location, PIPELINE_JOB, label_filter, limit=1)
        if not jobs:
            raise no_such_job(job_id, self.location.parent)
        return jobs

    def _read(self, name: str) -> Any:
        return retry(lambda: get_job(self.location, name))

    def _log_filter(self, job: Any) -> str:
        """Returns the filter of Cloud Logging for the lines of a job.

        A pipeline's steps are jobs, and its training is a job that a step has created.
        """
        number = job.name.split("/")[-1]
        if kind_of(job.name) != PIPELINE_JOB:
            return f'resource.labels.job_id="{number}"'
        names = {
            created.name
            for kind in (CUSTOM_JOB, TUNING_JOB)
            for created in list_jobs(self.location, kind, f"labels.{RUN_LABEL}={quoted(number)}")
        }
        names |= {task.executor_detail.container_detail.main_job for task in job.job_detail.task_details}
        numbers = " OR ".join(f'"{name.split("/")[-1]}"' for name in sorted(names - {""}))
        jobs = f" OR resource.labels.job_id=({numbers})" if numbers else ""
        return f'(resource.labels.pipeline_job_id="{number}"{jobs})'


def pipeline_job_id(job_id: str) -> str:
    """Converts a job id to the id of a pipeline run: lower-case letters, digits and hyphens.

    If other characters were replaced, the id ends in a digest: ``a_b`` and ``a-b`` are different runs.
    """
    label = job_label(job_id)
    run_id = re.sub("[^a-z0-9]+", "-", label).strip("-")
    # It is also a label of the steps' jobs, which has at most 63 characters.
    return run_id if run_id == label else f"{run_id[:54].rstrip('-')}-{digest(label, 8)}"


def pipeline_job_body(
    job_id: str,
    parameters: Mapping[str, Any],
    pipeline_file: Path,
    pipeline_root: str,
    *,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns a PipelineJob in the JSON form of Vertex AI's REST API.

    Args:
        job_id: The job id.
        parameters: The pipeline's parameters; missing ones have their defaults.
        pipeline_file: The compiled pipeline.
        pipeline_root: ``gs://`` folder for the run's artifacts.
        settings: ``service_account``, ``network``, ``encryption_key`` and ``labels``, all optional.
    """
    body: dict[str, Any] = {
        "displayName": job_id,
        "pipelineSpec": yaml.safe_load(pipeline_file.read_text(encoding="utf-8")),
        "runtimeConfig": {
            "gcsOutputDirectory": pipeline_root,
            "parameterValues": dict(parameters),
            "failurePolicy": "PIPELINE_FAILURE_POLICY_FAIL_FAST",
        },
    }
    if settings.get("service_account"):
        body["serviceAccount"] = settings["service_account"]
    if settings.get("network"):
        body["network"] = settings["network"]
    return finish_request(
        body,
        job_label=job_label(job_id),
        labels=settings.get("labels", {}),
        encryption_key=settings.get("encryption_key", ""),
    )


def schedule_body(name: str, cron: str, parent: str, pipeline_job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a Schedule in the JSON form of Vertex AI's REST API.

    Args:
        name: Name of the schedule.
        cron: Five fields.
        parent: ``projects/P/locations/R``.
        pipeline_job: Result of ``pipeline_job_body``.
    """
    return {
        "displayName": name,
        "cron": cron,
        # A late run does not overlap with the next one, which waits for it instead of being skipped.
        "maxConcurrentRunCount": 1,
        "allowQueueing": True,
        "createPipelineJobRequest": {"parent": parent, "pipelineJob": dict(pipeline_job)},
    }


def _describe(job: Any) -> Job:
    kind = kind_of(job.name)
    details: dict[str, Any] = {}
    if kind == TUNING_JOB:
        details["trials"] = [
            {
                "trial": trial.id,
                "state": trial.state.name,
                "parameters": {parameter.parameter_id: parameter.value for parameter in trial.parameters},
                "metrics": {metric.metric_id: metric.value for metric in trial.final_measurement.metrics},
            }
            for trial in job.trials
        ]
    error = job.error.message
    if kind == PIPELINE_JOB:
        tasks = job.job_detail.task_details
        details["steps"] = {task.task_name: task.state.name for task in tasks}
        failed = [f"{task.task_name}: {task.error.message}" for task in tasks if task.error.message]
        error = "; ".join(failed) or error
    return Job(
        job_id=job.display_name,
        target="vertex",
        kind="pipeline run" if kind == PIPELINE_JOB else type(job).__name__,
        state=state_of(job),
        name=job.name,
        created=_time(job.create_time),
        ended=_time(job.end_time),
        error=error,
        details=details,
    )


def _time(value: Any) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value else ""


def _schedule(message: Any) -> Schedule:
    return Schedule(
        name=message.display_name,
        target="vertex",
        state=message.state.name,
        cron=message.cron,
        time_zone=time_zone(message.cron),
        resource=message.name,
        next_run=_time(message.next_run_time),
        last_job=message.last_scheduled_run_response.run_response,
    )


def _line(entry: Mapping[str, Any]) -> str:
    if "jsonPayload" in entry:
        payload = entry["jsonPayload"]
        return str(payload.get("message", json.dumps(payload, ensure_ascii=False)))
    return str(entry.get("textPayload", ""))
