"""Runs of imgpipe's pipelines on Kubeflow Pipelines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.pipelines.targets.jobs import ENDED, Job, no_such_job
from imgpipe.pipelines.targets.kubeflow_client import EXPERIMENT, KubeflowClient, check_id, translate_errors
from imgpipe.pipelines.targets.kubeflow_logs import stream_logs
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest

_STATES = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING", None: "PENDING"}


@dataclass(frozen=True)
class KubeflowJobs:
    """The runs of imgpipe on a Kubeflow Pipelines installation."""

    client: KubeflowClient

    def submit(self, job_id: str, request: RunRequest) -> tuple[Job, bool]:
        """Starts a run unless there is one of that name.

        Returns:
            The run, and whether it existed before.

        Raises:
            InvalidArgumentError: if the existing run has another pipeline, image, parameter, account or root.
            UnavailableError: if the installation requires a login.
        """
        found = self._run_named(job_id)
        if found is not None:
            if different := request.differences(found):
                raise InvalidArgumentError(
                    f"the job id {job_id!r} was used for another request, with another {different}",
                    where=found.run_id,
                    remedy="give a new job id, or see the existing run with `imgpipe describe`",
                )
            return _job(found), True
        with translate_errors("start the run"):
            started = self.client.api.create_run_from_pipeline_package(
                str(request.pipeline_file),
                arguments=dict(request.parameters),
                run_name=job_id,
                experiment_name=EXPERIMENT,
                namespace=self.client.namespace or None,
                service_account=request.service_account or None,
                pipeline_root=request.pipeline_root or None,
            )
            check_id(started.run_info.run_id, "start the run")
        return _job(started.run_info), False

    def describe(self, job_id: str) -> Job:
        """Returns the run with that name or id."""
        return _job(self._run(job_id))

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest runs in imgpipe's experiment, newest first."""
        return [_job(run) for run in self._list_runs(page_size=limit)]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yields the lines of the steps' output while Kubernetes keeps their pods."""
        run_id = self._run(job_id).run_id
        return stream_logs(
            run_id, lambda: self.describe(run_id).state in ENDED, self.client.namespace, follow=follow
        )

    def cancel(self, job_id: str) -> None:
        """Cancels the run; does nothing if it has ended."""
        run = self._run(job_id)
        if _job(run).state not in ENDED:
            with translate_errors(f"cancel {job_id}"):
                self.client.api.terminate_run(run.run_id)

    def _list_runs(self, **options: Any) -> list[Any]:
        with translate_errors("list the runs"):
            experiment = self.client.experiment_id()
            if not experiment:
                return []
            page = self.client.api.list_runs(
                sort_by="created_at desc",
                experiment_id=experiment,
                namespace=self.client.namespace or None,
                **options,
            )
        return page.runs or []

    def _run_named(self, job_id: str) -> Any | None:
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": job_id}
        runs = self._list_runs(filter=json.dumps({"predicates": [predicate]}))
        return next((run for run in runs if run.display_name == job_id), None)

    def _run(self, job_id: str) -> Any:
        run = self._run_named(job_id)
        if run is not None:
            return run
        try:
            with translate_errors(f"read {job_id}"):
                run = self.client.api.get_run(job_id)
                check_id(run.run_id, f"read {job_id}")
                return run
        except (MissingInputError, InvalidArgumentError):
            raise no_such_job(job_id, self.client.host) from None


def _job(run: Any) -> Job:
    tasks = (run.run_details.task_details if run.run_details else None) or []
    return Job(
        job_id=run.display_name,
        target="kubeflow",
        kind="pipeline run",
        state=_STATES.get(run.state, run.state),
        name=run.run_id,
        created=_time(run.created_at),
        ended=_time(run.finished_at),
        error=run.error.message if run.error else "",
        details={"steps": {task.display_name: _STATES.get(task.state, task.state) for task in tasks}},
    )


def _time(value: Any) -> str:
    # The API returns the beginning of 1970 for a time that is not set.
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value and value.year > 1970 else ""
