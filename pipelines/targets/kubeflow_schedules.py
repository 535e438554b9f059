"""Recurring runs of imgpipe's pipelines on Kubeflow Pipelines."""

from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.targets.jobs import Schedule, only_schedule
from imgpipe.pipelines.targets.kubeflow_client import EXPERIMENT, KubeflowClient, check_id, translate_errors
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest, recurrence

_STATES = {"ENABLED": "ACTIVE", "DISABLED": "PAUSED"}
_PAGE_SIZE = 100


@dataclass(frozen=True)
class KubeflowSchedules:
    """The recurring runs of imgpipe on a Kubeflow Pipelines installation."""

    client: KubeflowClient

    def create_schedule(self, name: str, cron: str, request: RunRequest) -> tuple[Schedule, bool]:
        """Creates a recurring run unless there is one of that name; ``cron`` has five fields.

        Returns:
            The schedule, and whether it existed before.

        Raises:
            InvalidArgumentError: if the existing schedule differs, or several have that name.
            UnavailableError: if the installation requires a login.
        """
        named = [run for run in self._recurring_runs() if run.display_name == name]
        if named:
            existing = only_schedule(name, [_schedule(run) for run in named], self.client.host)
            different = request.differences(named[0])
            if existing.cron != cron:
                different = " and ".join(filter(None, ("time", different)))
            if different:
                raise InvalidArgumentError(
                    f"there is already a schedule {name!r} with another {different}",
                    where=existing.resource,
                    remedy="delete it first, or give another name",
                )
            return existing, True
        api, namespace = self.client.api, self.client.namespace or None
        with translate_errors("create the recurring run"):
            experiment = api.create_experiment(EXPERIMENT, namespace=namespace)
            check_id(experiment.experiment_id, "create the experiment")
            created = api.create_recurring_run(
                experiment_id=experiment.experiment_id,
                job_name=name,
                **recurrence(cron),
                params=dict(request.parameters),
                pipeline_package_path=str(request.pipeline_file),
                service_account=request.service_account or None,
                pipeline_root=request.pipeline_root or None,
            )
            check_id(created.recurring_run_id, "create the recurring run")
        return _schedule(created), False

    def list_schedules(self) -> list[Schedule]:
        """Returns the recurring runs in imgpipe's experiment."""
        return [_schedule(run) for run in self._recurring_runs()]

    def pause_schedule(self, name: str) -> None:
        """Pauses the schedule: no run starts until it is resumed."""
        resource = self._resource(name)
        with translate_errors(f"pause {name}"):
            self.client.api.disable_recurring_run(resource)

    def resume_schedule(self, name: str) -> None:
        """Resumes the schedule; missed runs are not made up for."""
        resource = self._resource(name)
        with translate_errors(f"resume {name}"):
            self.client.api.enable_recurring_run(resource)

    def delete_schedule(self, name: str) -> None:
        """Deletes the schedule; its running runs continue."""
        resource = self._resource(name)
        with translate_errors(f"delete {name}"):
            self.client.api.delete_recurring_run(resource)

    def _resource(self, name: str) -> str:
        return only_schedule(name, self.list_schedules(), self.client.host).resource

    def _recurring_runs(self) -> list[Any]:
        found: list[Any] = []
        with translate_errors("list the recurring runs"):
            experiment = self.client.experiment_id()
            token = ""
            while experiment:
                page = self.client.api.list_recurring_runs(
                    page_token=token,
                    page_size=_PAGE_SIZE,
                    experiment_id=experiment,
                    namespace=self.client.namespace or None,
                )
                found += page.recurring_runs or []
                token = page.next_page_token or ""
                if not token:
                    break
        return found


def _schedule(recurring: Any) -> Schedule:
    trigger = recurring.trigger.cron_schedule
    cron = trigger.cron if trigger else ""
    return Schedule(
        name=recurring.display_name,
        target="kubeflow",
        state=_STATES.get(recurring.status, recurring.status or "ACTIVE"),
        # Without Kubeflow's seconds.
        cron=cron.split(" ", 1)[1] if len(cron.split()) == 6 else cron,
        resource=recurring.recurring_run_id,
    )
