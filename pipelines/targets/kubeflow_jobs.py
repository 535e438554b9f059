"""Runs of imgpipe's pipelines on Kubeflow Pipelines."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    PipelineError,
)
from imgpipe.components.platforms.kubeflow.client import KubeflowClient, check_id, equals
from imgpipe.components.platforms.kubeflow.records import read_spec, read_workflow
from imgpipe.components.platforms.kubeflow.workflow import CANCELLED, Step, stop_reason
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.submission import create_once
from imgpipe.pipelines.targets.jobs import ENDED, Job, no_such_job, with_same_id
from imgpipe.pipelines.targets.kubeflow_logs import DEFAULT_NAMESPACE, StepLogs, stream_logs
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest
from imgpipe.pipelines.targets.kubeflow_runs import describe_run, job_of, read_steps

# KFP returns at most 200 a page (backend/src/apiserver/list/list.go, 2.17).
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
            spec = self.client.read(f"read {job_id}", lambda api: read_spec(api, run))
            if different := request.differences(run, spec):
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
            has_ended=lambda run: job_of(run).state in ENDED,
        )
        return self._job(run), existed

    def describe(self, job_id: str) -> Job:
        """Returns the run with that name or id and what its steps did; lists the others of that name."""
        runs = {str(run.run_id): run for run in self._runs(job_id)}
        job = with_same_id([self._job(run, self._workflow(run)) for run in runs.values()])
        # The run in a list has no tasks.
        run = self._get(job.name)
        described = self.client.read(
            f"read {job_id}", lambda api: describe_run(api, run, self._pods_namespace())
        )
        details = {**job.details, **described.details}
        return dataclasses.replace(described, namespace=job.namespace, details=details)

    def list_jobs(self, limit: int) -> list[Job]:
        """Returns the newest runs in imgpipe's experiment, newest first."""
        return [self._job(run, self._workflow(run)) for run in self._list_runs(limit)]

    def logs(self, job_id: str, *, follow: bool, everything: bool = False) -> Iterator[str]:
        """Yields the lines of the steps' output; ``everything`` includes those of KFP and of libraries."""
        jobs = [job_of(run) for run in self._runs(job_id)]
        run = self._get(with_same_id(jobs).name)

        def steps(api: Any) -> list[Step]:
            return read_steps(api, run, read_workflow(api, run.run_id))

        return stream_logs(
            StepLogs(self.client.api, run.run_id, self._pods_namespace()),
            lambda: self.client.read(f"read {job_id}", steps),
            lambda: job_of(self._get(run.run_id)).state in ENDED,
            follow=follow,
            everything=everything,
        )

    def cancel(self, job_id: str) -> None:
        """Cancels every run of that name that has not ended."""
        for run in self._runs(job_id):
            if job_of(run).state not in ENDED:
                self._terminate(run)
                self._delete_experiments(run)

    def _delete_experiments(self, run: Any) -> None:
        """Deletes a run's Katib Experiments, if the cluster can be reached from here.

        The step that follows one deletes it, too, unless it is killed first: it has less than a second.
        """
        # Takes a second to import.
        from imgpipe.components.platforms.kubernetes.client import connect
        from imgpipe.components.platforms.kubernetes.katib import delete_experiments_of

        namespace = self._pods_namespace() or DEFAULT_NAMESPACE
        try:
            cluster = connect("delete experiments on", namespace, in_cluster=False, retries=0)
            delete_experiments_of(cluster, run.run_id)
        except PipelineError:
            # No Katib, or not reachable.
            return

    def _job(self, run: Any, workflow: Mapping[str, Any] = MappingProxyType({})) -> Job:
        return dataclasses.replace(job_of(run, workflow), namespace=self.client.user_namespace())

    def _pods_namespace(self) -> str:
        return self.client.user_namespace() or self.client.namespace

    def _start(self, job_id: str, request: RunRequest) -> Any:
        fields = {"display_name": job_id, **request.fields(self.client)}

        def start(api: Any) -> Any:
            started = api.runs.run_service_create_run(run=api.api_models.V2beta1Run(**fields))
            check_id(started.run_id, "start the run")
            return started

        return self.client.send("start the run", start)

    def _remove(self, run: Any) -> None:
        """Ends and deletes a run that a second client has started at the same time, unless it has ended.

        KFP deletes a run even if it cannot stop its Workflow, so the run is cancelled first.
        """
        if job_of(run).state in ENDED:
            return
        self._terminate(run)
        self.client.read(
            f"delete the run {run.run_id}, which was started twice",
            lambda api: api.runs.run_service_delete_run(run_id=run.run_id),
        )

    def _terminate(self, run: Any) -> None:
        """Cancels a run, and waits until its Workflow is known to be cancelled."""

        def terminate(api: Any) -> None:
            api.runs.run_service_terminate_run(run_id=run.run_id)

        def request() -> None:
            try:
                self.client.send(f"cancel the run {run.run_id}", terminate)
            except InvalidArgumentError:
                # KFP refuses to cancel a run that has ended or is being cancelled (run_store.go, 2.17:
                # "Row not found").
                current = self._get(run.run_id)
                state = job_of(current).state
                if state in ENDED:
                    return
                if state != "CANCELLING":
                    raise
                # KFP records this state before it changes the Workflow, which may fail (TerminateRun in
                # resource_manager.go, 2.17). The run then becomes RUNNING again, and can be cancelled.
                workflow = self._workflow(current)
                if workflow and stop_reason(workflow) != CANCELLED:
                    raise InterruptedRunError(
                        f"Kubeflow Pipelines has not passed the cancellation of {run.run_id} to its Workflow",
                        remedy="run the same command again",
                    ) from None

        self.client.connect()
        retry(request)

    def _workflow(self, run: Any) -> Mapping[str, Any]:
        """Returns the Workflow of a run: only it says whether one that runs or has failed was cancelled."""
        if run.state not in ("RUNNING", "FAILED", "CANCELING"):
            return {}
        return self.client.read(f"read {run.run_id}", lambda api: read_workflow(api, run.run_id))

    def _get(self, run_id: str) -> Any:
        run = self.client.read(f"read {run_id}", lambda api: api.runs.run_service_get_run(run_id=run_id))
        check_id(run.run_id, f"read {run_id}")
        return run

    def _list_runs(self, limit: int, **options: Any) -> list[Any]:
        experiment = self.client.find_experiment()
        return self._list_pages(limit, experiment_id=experiment, **options) if experiment else []

    def _list_pages(self, limit: int, **options: Any) -> list[Any]:
        options["sort_by"] = "created_at desc"
        found: list[Any] = []
        while len(found) < limit:
            options["page_size"] = min(limit - len(found), _PAGE_SIZE)
            page = self.client.read("list the runs", lambda api: api.runs.run_service_list_runs(**options))
            found += page.runs or []
            if not page.next_page_token:
                break
            options["page_token"] = page.next_page_token
        return found

    def _find_runs(self, job_id: str) -> list[Any]:
        runs = self._list_runs(_PAGE_SIZE, filter=equals("display_name", job_id))
        return [run for run in runs if run.display_name == job_id]

    def _runs(self, job_id: str) -> list[Any]:
        """Returns the runs of that name, the one with that id, or those of that name from the browser."""
        runs = self._find_runs(job_id)
        if runs:
            return runs
        try:
            return [self._get(job_id)]
        except (MissingInputError, InvalidArgumentError):
            pass
        # The browser's form puts a run into another experiment.
        options = {"filter": equals("display_name", job_id)}
        if namespace := self.client.user_namespace():
            options["namespace"] = namespace
        if runs := [run for run in self._list_pages(_PAGE_SIZE, **options) if run.display_name == job_id]:
            return runs
        raise no_such_job(job_id, self.client.host)
