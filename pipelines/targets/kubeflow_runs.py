"""A run on Kubeflow Pipelines as `describe` and `list` show it."""

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from imgpipe.components.common.errors import InterruptedRunError, UnavailableError
from imgpipe.components.common.log import FAILED as FAILED_MARK
from imgpipe.components.common.log import RESULT, messages
from imgpipe.components.platforms.kubeflow.records import read_spec, read_workflow
from imgpipe.components.platforms.kubeflow.workflow import (
    CANCELLED,
    DONE,
    FAILED,
    NOT_RUN,
    PAST_DEADLINE,
    WAITING,
    Step,
    step_name,
    steps_of,
    stop_reason,
)
from imgpipe.components.platforms.polling import retry
from imgpipe.pipelines.targets.jobs import ENDED, Job
from imgpipe.pipelines.targets.kubeflow_logs import RETRY_SECONDS, StepLogs

_STATES = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING", None: "PENDING"}
# The Workflow's own name ends with five random characters after the pipeline's.
_NOT_A_STEP = re.compile(r"^(image-classification.*|batch-predict)-[a-z0-9]{5}$|^(condition|exit-handler)-")
_HOW_TO_LOOK = "why a step waits or failed: open the run in Kubeflow's web interface, or `kubectl get pods"


def job_of(run: Any, workflow: Mapping[str, Any] = MappingProxyType({})) -> Job:
    """Returns a run without its steps.

    Args:
        run: KFP's run.
        workflow: Its Workflow; {} = unknown, or not needed for the run's state.
    """
    state = _STATES.get(run.state, run.state)
    if stop_reason(workflow) == CANCELLED:
        # While its pods end, KFP says RUNNING again.
        state = {"FAILED": "CANCELLED", "RUNNING": "CANCELLING"}.get(state, state)
    return Job(
        job_id=run.display_name,
        target="kubeflow",
        kind="pipeline run",
        state=state,
        name=run.run_id,
        created=_time(run.created_at),
        ended=_time(run.finished_at),
        error=run.error.message if run.error else "",
    )


def describe_run(api: Any, run: Any, namespace: str) -> Job:
    """Returns a run with what its steps did, in the pipeline's order.

    The result of a step, and the error of a failed one, are those that the step printed.
    """
    workflow = read_workflow(api, run.run_id)
    job = job_of(run, workflow)
    steps = read_steps(api, run, workflow)
    if not steps:
        return dataclasses.replace(job, details=_without_workflow(run, job, namespace))
    logs = StepLogs(api, run.run_id, namespace)
    shown, error = {}, job.error
    # The artifacts may be enough.
    with contextlib.suppress(InterruptedRunError):
        retry(logs.connect, seconds=RETRY_SECONDS)
    missing = False
    for step in map(logs.with_reason, steps):
        printed = _printed(logs, step)
        missing = missing or printed is None
        shown[step.name] = _shown(step, printed or [])
        if step.state == FAILED and job.state == "CANCELLED":
            shown[step.name] = {**shown[step.name], "state": "cancelled"}
            del shown[step.name]["error"]
            continue
        if step.state == job.state.lower() == FAILED and stop_reason(workflow) == PAST_DEADLINE:
            shown[step.name]["error"] = _deadline_error(workflow, logs, step, has_started=bool(printed))
        if step.state == FAILED and not error:
            reason, *_ = shown[step.name]["error"].splitlines()
            error = f"{step.name}: {reason.removeprefix('problem: ')}"
    details: dict[str, Any] = {"steps": shown}
    if missing:
        details["logs"] = f"not readable from here; {_look(namespace, run.run_id)}"
    return dataclasses.replace(job, error=error, details=details)


def _deadline_error(workflow: Mapping[str, Any], logs: StepLogs, step: Step, *, has_started: bool) -> str:
    """Returns the error of a step that ended with its run's deadline; Argo deletes a pod that waits then."""
    hours = workflow["spec"]["activeDeadlineSeconds"] / 3600
    problem = f"the run was ended by its deadline, {hours:,.0f} h after its start (activeDeadlineSeconds)"
    if has_started:
        return f"{problem}\nwhat to do: start it again; with the same job_dir, the training continues"
    if reason := logs.last_warning(step):
        what, remedy = "had not started", "correct the reason, and start the run again"
    else:
        what, reason = "has left no log, and had probably not started", "not known anymore"
        remedy = "start the run again: `imgpipe describe` shows the reason while a step waits"
    return f"{problem}: the pod of {step.name} {what}\nreason: {reason}\nwhat to do: {remedy}"


def read_steps(api: Any, run: Any, workflow: Mapping[str, Any]) -> list[Step]:
    """Returns the steps of a run; none if their states or their order cannot be read."""
    spec = read_spec(api, run)
    if not spec or not workflow.get("status", {}).keys() & {"nodes", "compressedNodes"}:
        return []
    return steps_of(workflow, spec)


def _printed(logs: StepLogs, step: Step) -> list[str] | None:
    """Returns the messages of a step's last attempt; None if its log exists but cannot be read."""
    if not step.attempts or step.state == WAITING:
        return []
    try:
        lines = logs.read(step, len(step.attempts) - 1)
    except UnavailableError:
        return None
    if lines is None and step.state in (DONE, FAILED):
        return None
    return messages(lines or [])


def _shown(step: Step, printed: list[str]) -> dict[str, Any]:
    results = {
        component: result
        for component, separator, result in (text.partition(f": {RESULT}") for text in printed)
        if separator
    }
    failures = [text for text in printed if text.partition("\n")[0].endswith(f": {FAILED_MARK}")]
    shown: dict[str, Any] = {"state": step.state}
    if step.cached:
        shown["cached"] = "its outputs are those of an earlier run"
    if len(step.attempts) > 1:
        shown["attempts"] = len(step.attempts)
    if step.seconds is not None:
        shown["duration"] = f"{step.seconds:,.0f} s"
    if results:
        # A step that runs several components has a result of each.
        own = results.get(step.name)
        shown["result"] = own or "\n".join(f"{name}: {result}" for name, result in results.items())
    if step.state == FAILED:
        # A log that was cut off may end before the reason.
        reason = failures[-1].partition("\n")[2] if failures else ""
        shown["error"] = reason or step.message or "no reason is known"
    elif step.message:
        shown["reason"] = step.message
    return shown


def _without_workflow(run: Any, job: Job, namespace: str) -> dict[str, Any]:
    """Returns what KFP's list of tasks says.

    It has drivers, executors, iterations and the Workflow itself, in no order (toModelTasks in
    kubeflow/pipelines 2.17, backend/src/apiserver/server/api_converter.go).
    """
    tasks = (run.run_details.task_details if run.run_details else None) or []
    steps = {}
    for task in sorted(tasks, key=lambda task: str(task.start_time or "")):
        name = re.sub(r"\(\d+\)$", "", task.display_name or "")
        if not name or name in ("root", "executor") or name.endswith("-driver"):
            continue
        if _NOT_A_STEP.search(name):
            continue
        state = str(task.state or "").lower()
        if state in ("pending", "running", "") and job.state in ENDED:
            state = NOT_RUN
        steps[step_name(name)] = {"state": DONE if state == "succeeded" else state or NOT_RUN}
    return {"steps": steps, "logs": _look(namespace, run.run_id)} if steps else {}


def _look(namespace: str, run_id: str) -> str:
    return f"{_HOW_TO_LOOK} -n {namespace or 'kubeflow'} -l pipeline/runid={run_id}`"


def _time(value: Any) -> str:
    # The API returns the beginning of 1970 for a time that is not set.
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if value and value.year > 1970 else ""
