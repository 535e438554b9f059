"""Runs of imgpipe's pipelines on Kubeflow Pipelines."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError
from imgpipe.components.platforms.kubeflow.client import KubeflowClient, check_id
from imgpipe.components.platforms.submission import create_once
from imgpipe.pipelines.targets.jobs import ENDED, Job, no_such_job, with_same_id
from imgpipe.pipelines.targets.kubeflow_logs import stream_logs
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest

_STATES = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING", None: "PENDING"}
_PAGE_SIZE = 100


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
        self.client.connect()

        def check(run: Any) -> None:
            if different := request.differences(run):
                raise InvalidArgumentError(
                    f"the job id {job_id!r} was used for another request, with another {different}",
                    where=run.run_id,
                    remedy="give a new job id, or see the existing run with `imgpipe describe`",
                )

        run, existed = create_once(
            lambda: self._find_runs(job_id),
            lambda: self._start(job_id, request),
            check=check,
            end=self._remove,
            identify=lambda run: str(run.run_id),
            created=lambda run: run.created_at,
        )
        return _job(run), existed

    def describe(self, job_id: str) -> Job:
        """Returns the run with that name or id; ``details`` lists the others of that name."""
        return with_same_id([_job(run) for run in self._runs(job_id)])

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest runs in imgpipe's experiment, newest first."""
        return [_job(run) for run in self._list_runs(limit)]

    def logs(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yields the lines of the steps' output while Kubernetes keeps their pods."""
        run_id = self.describe(job_id).name
        return stream_logs(
            run_id, lambda: self.describe(run_id).state in ENDED, self.client.namespace, follow=follow
        )

    def cancel(self, job_id: str) -> None:
        """Cancels every run of that name that has not ended."""
        for run in self._runs(job_id):
            if _job(run).state not in ENDED:
                self._terminate(run)

    def _start(self, job_id: str, request: RunRequest) -> Any:
        experiment = self.client.create_experiment()

        def start(api: Any) -> Any:
            models = api.api_models
            started = api.runs.run_service_create_run(
                run=models.V2beta1Run(
                    experiment_id=experiment,
                    display_name=job_id,
                    pipeline_spec=request.pipeline_spec,
                    runtime_config=models.V2beta1RuntimeConfig(
                        parameters=dict(request.parameters), pipeline_root=request.pipeline_root or None
                    ),
                    service_account=request.service_account or None,
                )
            )
            check_id(started.run_id, "start the run")
            return started

        return self.client.send("start the run", start)

    def _remove(self, run: Any) -> None:
        """Ends and deletes a run that a second client has started at the same time, unless it has ended.

        KFP deletes a run even if it cannot stop its Workflow, so the run is cancelled first.
        """
        if _job(run).state in ENDED:
            return
        self._terminate(run)
        self.client.read(
            f"delete the run {run.run_id}, which was started twice",
            lambda api: api.runs.run_service_delete_run(run_id=run.run_id),
        )

    def _terminate(self, run: Any) -> None:
        def terminate(api: Any) -> None:
            api.runs.run_service_terminate_run(run_id=run.run_id)

        try:
            self.client.read(f"cancel the run {run.run_id}", terminate)
        except InvalidArgumentError:
            # KFP refuses to cancel a run that has ended or is being cancelled (run_store.go, 2.17: "Row not
            # found").
            if _job(self._get(run.run_id)).state not in (*ENDED, "CANCELLING"):
                raise

    def _get(self, run_id: str) -> Any:
        run = self.client.read(f"read {run_id}", lambda api: api.runs.run_service_get_run(run_id=run_id))
        check_id(run.run_id, f"read {run_id}")
        return run

    def _list_runs(self, limit: int, **options: Any) -> list[Any]:
        experiment = self.client.find_experiment()
        if not experiment:
            return []
        page = self.client.read(
            "list the runs",
            lambda api: api.runs.run_service_list_runs(
                experiment_id=experiment, page_size=limit, sort_by="created_at desc", **options
            ),
        )
        return page.runs or []

    def _find_runs(self, job_id: str) -> list[Any]:
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": job_id}
        runs = self._list_runs(_PAGE_SIZE, filter=json.dumps({"predicates": [predicate]}))
        return [run for run in runs if run.display_name == job_id]

    def _runs(self, job_id: str) -> list[Any]:
        """Returns the runs of that name, or the one with that id."""
        runs = self._find_runs(job_id)
        if runs:
            return runs
        try:
            return [self._get(job_id)]
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
