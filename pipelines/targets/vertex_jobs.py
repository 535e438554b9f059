"""The jobs, pipeline runs and schedules of a project on Vertex AI."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError, UnavailableError
from imgpipe.components.platforms.google_credentials import default_credentials
from imgpipe.components.platforms.vertex.client import explained, is_plain_http, service_client
from imgpipe.components.platforms.vertex.jobs import (
    JOB_KINDS,
    JOB_LABEL,
    REQUEST_LABEL,
    RUN_LABEL,
    JobKind,
    cancel_job,
    find_job,
    same_request,
    start_job,
    state_of,
)
from imgpipe.pipelines.ai_platform import VertexRequest, job_label
from imgpipe.pipelines.targets.jobs import ENDED, Job, Schedule, no_such_job, only_schedule

PIPELINE_RUN = JobKind("PipelineJob", "pipeline_job")
_KIND_NAMES = {PIPELINE_RUN: "pipeline run"}
_LOGGING = "https://logging.googleapis.com"
# Of the API.
_LOG_PAGE = 1000
_SECONDS_BETWEEN_QUESTIONS = 5.0
# After an answer that was lost.
_FIRST_PAUSE_SECONDS = 1.0


@dataclass
class VertexJobs:
    """The jobs of a project in a region.

    Attributes:
        project: Its id.
        region: E.g. ``us-central1``.
        endpoint: Another address than Google's; see ``service_client``.
        pause: Waits between questions.
    """

    project: str
    region: str
    endpoint: str = ""
    pause: Callable[[float], None] = time.sleep
    _clients: dict[str, Any] = field(default_factory=dict)

    @property
    def parent(self) -> str:
        """The region's resource name."""
        return f"projects/{self.project}/locations/{self.region}"

    def client(self, service: str) -> Any:
        """Returns the client of a service, made once."""
        if service not in self._clients:
            self._clients[service] = service_client(service, self.region, self.endpoint)
        return self._clients[service]

    def submit(self, request: VertexRequest) -> tuple[Job, bool]:
        """Starts a job, unless it was started before; returns it and whether it was found.

        Raises:
            InvalidArgumentError: if another request was sent under its name.
            PipelineError: as Vertex AI refuses.
        """
        kind = next(kind for kind in JOB_KINDS if kind.name == request.kind)
        job, found = start_job(
            self.client("JobServiceClient"),
            self.parent,
            kind,
            request.body,
            find=lambda: self._started(request.body["labels"][JOB_LABEL], kind),
            pause=self.pause,
        )
        return _described(kind, job), found

    def submit_pipeline(self, body: Mapping[str, Any]) -> tuple[Job, bool]:
        """Starts a pipeline's run, unless it was started before; see ``submit``."""
        # First of all: it says what to do where the library is not installed.
        client = self.client("PipelineServiceClient")
        from google.api_core.exceptions import Conflict
        from google.cloud import aiplatform_v1
        from google.protobuf import json_format

        message = aiplatform_v1.PipelineJob
        parsed = message.wrap(json_format.ParseDict(dict(body), message.pb(message())))
        run_id = pipeline_job_id(body["displayName"])
        seconds, attempts = _FIRST_PAUSE_SECONDS, 4
        for attempt in range(1, attempts + 1):
            try:
                started = self._started(body["labels"][JOB_LABEL], PIPELINE_RUN)
                if started is not None:
                    return _described(PIPELINE_RUN, same_request(started, body)), True
                with explained("start the pipeline"):
                    try:
                        run = client.create_pipeline_job(
                            parent=self.parent, pipeline_job=parsed, pipeline_job_id=run_id, timeout=60
                        )
                        return _described(PIPELINE_RUN, run), False
                    except Conflict:
                        found = client.get_pipeline_job(name=f"{self.parent}/pipelineJobs/{run_id}")
                return _described(PIPELINE_RUN, same_request(found, body)), True
            except InterruptedRunError:
                if attempt == attempts:
                    raise
            self.pause(seconds)
            seconds *= 2
        raise AssertionError("unreachable")

    def _started(self, label: str, wanted: JobKind) -> Any | None:
        """Returns what was submitted under a name, of whatever kind, or None; first of the kind wanted."""
        for kind in sorted((*JOB_KINDS, PIPELINE_RUN), key=lambda kind: kind != wanted):
            # What a schedule of that name has started was not submitted.
            found = find_job(
                self._service(kind),
                self.parent,
                kind,
                label,
                matches=lambda job: not getattr(job, "schedule_name", ""),
            )
            if found is not None:
                return found
        return None

    def describe(self, job_id: str) -> Job:
        """Returns the job or pipeline run of a name, or of a resource name."""
        kind, job = self._found(job_id)
        return _described(kind, job)

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest jobs and runs that imgpipe started, newest first."""
        found: list[Job] = []
        for kind in (*JOB_KINDS, PIPELINE_RUN):
            with explained(f"list the {kind.collection}"):
                listed = getattr(self._service(kind), f"list_{kind.snake}s")(
                    request={"parent": self.parent, "filter": f"labels.{JOB_LABEL}:*", "page_size": limit}
                )
                for place, job in enumerate(listed):
                    if place == limit:
                        break
                    if JOB_LABEL in job.labels:
                        found.append(_described(kind, job))
        return sorted(found, key=lambda job: job.created, reverse=True)[:limit]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yields the lines of the job's machines, as Cloud Logging has them.

        A pipeline run's lines are those of its steps.
        """
        kind, job = self._found(job_id)
        shown: set[str] = set()
        since = ""
        while True:
            ended = _described(kind, job).state in ENDED
            for entry in self._entries(self._log_filter(kind, job), since):
                if entry["insertId"] not in shown:
                    shown.add(entry["insertId"])
                    since = entry["timestamp"]
                    yield _line(entry)
            if ended or not follow:
                return
            self.pause(_SECONDS_BETWEEN_QUESTIONS)
            # Asked before the lines are read once more: what was written until the end is not missed.
            kind, job = self._found(job.name)

    def cancel(self, job_id: str) -> None:
        """Asks Vertex AI to stop the job."""
        kind, job = self._found(job_id)
        if _described(kind, job).state in ENDED:
            return
        if kind == PIPELINE_RUN:
            with explained(f"cancel {job.name}"):
                self.client("PipelineServiceClient").cancel_pipeline_job(name=job.name)
            return
        cancel_job(self.client("JobServiceClient"), job.name)

    def create_schedule(self, name: str, cron: str, pipeline_job: Mapping[str, Any]) -> tuple[Schedule, bool]:
        """Starts a schedule, unless it was started before.

        Args:
            name: Its name.
            cron: When, in five fields, perhaps after a time zone.
            pipeline_job: What ``pipeline_job_body`` returns.

        Returns:
            The schedule, and whether it was found rather than started.

        Raises:
            InvalidArgumentError: if there is a schedule of that name with another time or pipeline.
        """
        from google.cloud import aiplatform_v1
        from google.protobuf import json_format

        for one in self._schedules():
            if one.display_name != name:
                continue
            labels = one.create_pipeline_job_request.pipeline_job.labels
            if (one.cron, labels[REQUEST_LABEL]) == (cron, pipeline_job["labels"][REQUEST_LABEL]):
                return _schedule(one), True
            raise InvalidArgumentError(
                f"there is a schedule {name!r} already, with another "
                + ("time" if one.cron != cron else "pipeline, image, argument, account or root"),
                remedy="delete it first, or give another name",
            )
        message = aiplatform_v1.Schedule
        body = schedule_body(name, cron, self.parent, pipeline_job)
        schedule = message.wrap(json_format.ParseDict(body, message.pb(message())))
        with explained("create the schedule"):
            created = self.client("ScheduleServiceClient").create_schedule(
                parent=self.parent, schedule=schedule
            )
        return _schedule(created), False

    def list_schedules(self) -> list[Schedule]:
        """Returns the schedules of pipelines that imgpipe made."""
        return [_schedule(one) for one in self._schedules()]

    def _schedules(self) -> list[Any]:
        with explained("list the schedules"):
            listed = list(self.client("ScheduleServiceClient").list_schedules(parent=self.parent))
        return [one for one in listed if JOB_LABEL in one.create_pipeline_job_request.pipeline_job.labels]

    def pause_schedule(self, name: str) -> None:
        """Starts no more runs until it is resumed."""
        resource = self._schedule_named(name)
        with explained(f"pause {resource}"):
            self.client("ScheduleServiceClient").pause_schedule(name=resource)

    def resume_schedule(self, name: str) -> None:
        """Starts runs again, without those that were missed."""
        resource = self._schedule_named(name)
        with explained(f"resume {resource}"):
            self.client("ScheduleServiceClient").resume_schedule(name=resource)

    def delete_schedule(self, name: str) -> None:
        """Removes the schedule; runs that were started go on."""
        resource = self._schedule_named(name)
        with explained(f"delete {resource}"):
            self.client("ScheduleServiceClient").delete_schedule(name=resource).result(timeout=120)

    def _schedule_named(self, name: str) -> str:
        return only_schedule(name, self.list_schedules(), self.parent).resource

    def _service(self, kind: JobKind) -> Any:
        return self.client("PipelineServiceClient" if kind == PIPELINE_RUN else "JobServiceClient")

    def _found(self, job_id: str) -> tuple[JobKind, Any]:
        kinds = (*JOB_KINDS, PIPELINE_RUN)
        if job_id.startswith("projects/"):
            kind = next((kind for kind in kinds if f"/{kind.collection}/" in job_id), None)
            if kind is None:
                raise no_such_job(job_id, self.parent)
            with explained(f"read {job_id}"):
                return kind, getattr(self._service(kind), f"get_{kind.snake}")(name=job_id)
        for kind in kinds:
            job = find_job(self._service(kind), self.parent, kind, job_label(job_id))
            if job is not None:
                return kind, job
        raise no_such_job(job_id, self.parent)

    def _log_filter(self, kind: JobKind, job: Any) -> str:
        """Returns what Cloud Logging knows the lines by.

        A pipeline's steps are jobs too, and its training is one that a step has started.
        """
        number = job.name.split("/")[-1]
        if kind != PIPELINE_RUN:
            return f'resource.labels.job_id="{number}"'
        names = []
        with explained("list the jobs of the run"):
            for one in JOB_KINDS:
                started = getattr(self.client("JobServiceClient"), f"list_{one.snake}s")(
                    request={"parent": self.parent, "filter": f'labels.{RUN_LABEL}="{number}"'}
                )
                names += [found.name for found in started]
        names += [
            task.executor_detail.container_detail.main_job
            for task in job.job_detail.task_details
            if task.executor_detail.container_detail.main_job
        ]
        numbers = " OR ".join(f'"{name.split("/")[-1]}"' for name in sorted(set(names)))
        jobs = f" OR resource.labels.job_id=({numbers})" if numbers else ""
        return f'(resource.labels.pipeline_job_id="{number}"{jobs})'

    def _entries(self, of_job: str, since: str) -> Iterator[dict[str, Any]]:
        """Yields entries of Cloud Logging, oldest first, from a time on (that time included)."""
        after = f' AND timestamp>="{since}"' if since else ""
        request: dict[str, Any] = {
            "resourceNames": [f"projects/{self.project}"],
            "filter": f"{of_job}{after}",
            "orderBy": "timestamp asc",
            "pageSize": _LOG_PAGE,
        }
        while True:
            with explained("read the logs"):
                address = f"{self.endpoint if is_plain_http(self.endpoint) else _LOGGING}/v2/entries:list"
                response = self._session().post(address, json=request, timeout=60)
            if response.status_code == 429 or response.status_code >= 500:
                raise InterruptedRunError(
                    f"Cloud Logging does not show the logs now: {response.text[:300]}",
                    remedy="try again in a minute: the job goes on meanwhile",
                )
            if response.status_code != 200:
                raise UnavailableError(
                    f"Cloud Logging refused to show the logs: {response.text[:300]}",
                    remedy="give your account the role roles/logging.viewer",
                )
            page = response.json()
            yield from page.get("entries", [])
            if not page.get("nextPageToken"):
                return
            request["pageToken"] = page["nextPageToken"]

    def _session(self) -> Any:
        if "session" not in self._clients:
            self._clients["session"] = authorized_session(self.endpoint)
        return self._clients["session"]


def authorized_session(endpoint: str = "") -> Any:
    """Returns an HTTP session with the user's credentials; without any for a server of this machine."""
    import requests
    from google.auth.transport.requests import AuthorizedSession

    if is_plain_http(endpoint):
        return requests.Session()
    return AuthorizedSession(default_credentials()[0])


def pipeline_job_id(job_id: str) -> str:
    """Returns a job id as the id of a pipeline run: lower-case letters, digits and hyphens.

    One that had other characters ends in a digest: ``a_b`` and ``a-b`` are two runs.
    """
    label = job_label(job_id)
    run_id = re.sub("[^a-z0-9]+", "-", label).strip("-")
    # The steps' jobs have it as a label, of 63 characters at most.
    return (
        run_id
        if run_id == label
        else f"{run_id[:54].rstrip('-')}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    )


def pipeline_job_body(
    job_id: str,
    parameters: Mapping[str, Any],
    pipeline_file: Path,
    pipeline_root: str,
    *,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the PipelineJob of a run in the JSON form of Vertex AI's REST interface.

    Args:
        job_id: Its name.
        parameters: Of the pipeline; what is left out has its default.
        pipeline_file: The compiled pipeline.
        pipeline_root: ``gs://`` folder for the run's artifacts.
        settings: ``service_account``, ``network``, ``encryption_key``, ``labels``; each may be left out.
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
    if settings.get("encryption_key"):
        body["encryptionSpec"] = {"kmsKeyName": settings["encryption_key"]}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
    body["labels"] = {
        **settings.get("labels", {}),
        JOB_LABEL: job_label(job_id),
        REQUEST_LABEL: digest,
    }
    return body


def schedule_body(name: str, cron: str, parent: str, pipeline_job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a Schedule in the JSON form of Vertex AI's REST interface.

    Args:
        name: Its name.
        cron: When, in five fields.
        parent: Project and region, ``projects/P/locations/R``.
        pipeline_job: What ``pipeline_job_body`` returns.
    """
    return {
        "displayName": name,
        "cron": cron,
        # A run that is late does not start beside the next one.
        "maxConcurrentRunCount": 1,
        "createPipelineJobRequest": {"parent": parent, "pipelineJob": dict(pipeline_job)},
    }


def _described(kind: JobKind, job: Any) -> Job:
    details: dict[str, Any] = {}
    if kind.name == "HyperparameterTuningJob":
        details["trials"] = [
            {
                "trial": trial.id,
                "state": trial.state.name,
                "parameters": {one.parameter_id: one.value for one in trial.parameters},
                "metrics": {one.metric_id: one.value for one in trial.final_measurement.metrics},
            }
            for trial in job.trials
        ]
    error = job.error.message
    if kind == PIPELINE_RUN:
        tasks = job.job_detail.task_details
        details["steps"] = {task.task_name: task.state.name for task in tasks}
        failed = [f"{task.task_name}: {task.error.message}" for task in tasks if task.error.message]
        error = "; ".join(failed) or error
    return Job(
        job_id=job.display_name,
        target="vertex",
        kind=_KIND_NAMES.get(kind, kind.name),
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
        resource=message.name,
        next_run=_time(message.next_run_time),
        last_job=message.last_scheduled_run_response.run_response,
    )


def _line(entry: Mapping[str, Any]) -> str:
    if "jsonPayload" in entry:
        payload = entry["jsonPayload"]
        return str(payload.get("message", json.dumps(payload, ensure_ascii=False)))
    return str(entry.get("textPayload", ""))
