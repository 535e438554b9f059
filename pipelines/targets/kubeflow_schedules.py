"""Recurring runs of imgpipe's pipelines on Kubeflow Pipelines."""

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError, PipelineError
from imgpipe.components.platforms.kubeflow.client import KubeflowClient, check_id, equals
from imgpipe.components.platforms.kubeflow.records import read_spec
from imgpipe.components.platforms.submission import create_once
from imgpipe.pipelines.cron import next_time
from imgpipe.pipelines.targets.jobs import Schedule, only_schedule
from imgpipe.pipelines.targets.kubeflow_logs import DEFAULT_NAMESPACE
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest, recurrence

_STATES = {"ENABLED": "ACTIVE", "DISABLED": "PAUSED"}
_PAGE_SIZE = 100
# KFP uses UTC unless CRON_SCHEDULE_TIMEZONE is set for it.
ASSUMED_ZONE, INSTALLATION_ZONE = "UTC (assumed)", "CRON_SCHEDULE_TIMEZONE"


@dataclass(frozen=True)
class KubeflowSchedules:
    """The recurring runs of imgpipe on a Kubeflow Pipelines installation."""

    client: KubeflowClient

    def create_schedule(self, name: str, cron: str, request: RunRequest) -> tuple[Schedule, bool]:
        """Creates a recurring run unless there is one of that name; ``cron`` has five fields.

        Returns:
            The schedule, and whether it existed before.

        Raises:
            InvalidArgumentError: if the existing schedule differs.
            UnavailableError: if the installation requires a login.
        """
        self.client.connect()

        def check(found: Any) -> None:
            existing = _schedule(found)
            spec = self.client.read(f"read {name}", lambda api: read_spec(api, found))
            different = request.differences(found, spec)
            if existing.cron != cron:
                different = " and ".join(filter(None, ("time", different)))
            if different:
                raise InvalidArgumentError(
                    f"there is already a schedule {name!r} with another {different}",
                    where=existing.resource,
                    remedy="delete it first, or give another name",
                )

        schedule, existed = create_once(
            lambda: [run for run in self._recurring_runs() if run.display_name == name],
            lambda: self._create(name, cron, request),
            check=check,
            end=self._delete,
            identify=lambda run: str(run.recurring_run_id),
            created=lambda run: run.created_at,
        )
        return _schedule(schedule), existed

    def _create(self, name: str, cron: str, request: RunRequest) -> Any:
        fields, times = request.fields(self.client), recurrence(cron)

        def create(api: Any) -> Any:
            models = api.api_models
            created = api.recurring_runs.recurring_run_service_create_recurring_run(
                recurring_run=models.V2beta1RecurringRun(
                    display_name=name,
                    mode=models.RecurringRunMode.ENABLE,
                    trigger=models.V2beta1Trigger(
                        cron_schedule=models.V2beta1CronSchedule(cron=times["cron_expression"])
                    ),
                    max_concurrency=times["max_concurrency"],
                    no_catchup=times["no_catchup"],
                    **fields,
                )
            )
            check_id(created.recurring_run_id, "create the recurring run")
            return created

        return self.client.send("create the recurring run", create)

    def list_schedules(self) -> list[Schedule]:
        """Returns the recurring runs in imgpipe's experiment."""
        schedules = [*map(_schedule, self._recurring_runs())]
        triggers = self._triggers() if schedules else {}
        return [
            dataclasses.replace(
                _with_next_run(schedule, triggers.get(schedule.resource, "")),
                last_job=self._last_run(schedule.resource),
            )
            for schedule in schedules
        ]

    def _triggers(self) -> dict[str, str]:
        """Returns the times of the next runs by resource; {} if the cluster cannot be read from here."""
        # Takes a second to import.
        from imgpipe.components.platforms.kubernetes.client import connect
        from imgpipe.components.platforms.kubernetes.workflow import next_triggers

        namespace = self.client.user_namespace() or self.client.namespace or DEFAULT_NAMESPACE
        try:
            return next_triggers(connect("read schedules from", namespace, in_cluster=False, retries=0))
        except PipelineError:
            return {}

    def _last_run(self, resource: str) -> str:
        """Returns the name of the newest run that a recurring run has started; "" if there is none."""
        experiment = self.client.find_experiment()
        page = self.client.read(
            "list the runs of a schedule",
            lambda api: api.runs.run_service_list_runs(
                experiment_id=experiment,
                page_size=1,
                sort_by="created_at desc",
                filter=equals("recurring_run_id", resource),
            ),
        )
        return str(page.runs[0].display_name) if page.runs else ""

    def pause_schedule(self, name: str) -> None:
        """Pauses the schedule: no run starts until it is resumed."""
        self._change("disable", f"pause {name}", self._resource(name))

    def resume_schedule(self, name: str) -> None:
        """Resumes the schedule; missed runs are skipped."""
        self._change("enable", f"resume {name}", self._resource(name))

    def delete_schedule(self, name: str) -> None:
        """Deletes the schedule; its running runs continue.

        By default Kubernetes would also delete the Workflows, which belong to the ScheduledWorkflow: their
        pods would end, and Kubeflow Pipelines would show the runs as RUNNING for ever.
        """
        self._change("delete", f"delete {name}", self._resource(name), propagation_policy="ORPHAN")

    def _delete(self, recurring: Any) -> None:
        resource = recurring.recurring_run_id
        self._change("delete", f"delete the recurring run {resource}, which was created twice", resource)

    def _change(self, verb: str, action: str, resource: str, **options: str) -> None:
        method = f"recurring_run_service_{verb}_recurring_run"
        self.client.read(
            action, lambda api: getattr(api.recurring_runs, method)(recurring_run_id=resource, **options)
        )

    def _resource(self, name: str) -> str:
        return only_schedule(name, [*map(_schedule, self._recurring_runs())], self.client.host).resource

    def _recurring_runs(self) -> list[Any]:
        experiment = self.client.find_experiment()
        found: list[Any] = []
        options: dict[str, Any] = {"experiment_id": experiment, "page_size": _PAGE_SIZE}

        def list_page(api: Any) -> Any:
            return api.recurring_runs.recurring_run_service_list_recurring_runs(**options)

        while experiment:
            page = self.client.read("list the recurring runs", list_page)
            found += page.recurring_runs or []
            if not page.next_page_token:
                break
            options["page_token"] = page.next_page_token
        return found


def _with_next_run(schedule: Schedule, trigger: str) -> Schedule:
    """Returns a schedule with its next run.

    Args:
        schedule: The schedule.
        trigger: The time of the next run; empty = not known: as if cron were in UTC.
    """
    next_run, zone = trigger or next_time(schedule.cron, datetime.now(UTC)), ASSUMED_ZONE
    if trigger:
        before = datetime.fromisoformat(trigger) - timedelta(minutes=1)
        zone = "UTC" if next_time(schedule.cron, before) == trigger else INSTALLATION_ZONE
    return dataclasses.replace(
        schedule, time_zone=zone, next_run=next_run if schedule.state == "ACTIVE" else ""
    )


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
        time_zone=ASSUMED_ZONE,
    )
