"""The Argo Workflow of a run: the state of each step of the pipeline, and why it failed or waits.

Kubeflow Pipelines' own list of tasks has neither an order nor a reason. The Workflow has both: a node's
``name`` is its path, e.g. ``flowers-x7k2p.root.convert.executor(0)``, where ``(0)`` is an attempt, and its
``message`` is the reason (getPendingReason and inferFailedReason in argo-workflows 4.0.5,
workflow/controller/operator.go).
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

DONE, RUNNING, WAITING, FAILED, SKIPPED, NOT_RUN = (
    "done",
    "running",
    "waiting",
    "failed",
    "skipped",
    "not run",
)
CANCELLED, PAST_DEADLINE = "cancelled", "past its deadline"
# A pod's clock may be behind the cluster's when SIGTERM follows a deadline.
_CLOCK_TOLERANCE = timedelta(seconds=60)
_EXECUTOR = "executor"
# GenerateOnExitNodeName in argo-workflows 4.0.5 (workflow/common/util.go).
_ON_EXIT = "onExit"
# Argo's phases of a node.
_STATES = {
    "Pending": WAITING,
    "Running": RUNNING,
    "Succeeded": DONE,
    "Failed": FAILED,
    "Error": FAILED,
    "Skipped": SKIPPED,
    # A step that this one depends on has failed.
    "Omitted": NOT_RUN,
}
# A pod that waits for these is about to start.
_STARTING = ("", "ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Attempt:
    """One pod of a step.

    Attributes:
        node: Id of the Workflow's node.
        pod: Name of the pod; empty if unknown.
        state: One of the states of a step.
        started: Time, ISO 8601; empty if unknown.
        ended: End time; empty while it runs.
        message: Why it waits or has failed; otherwise empty.
    """

    node: str
    pod: str
    state: str
    started: str
    ended: str
    message: str


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        name: The step.
        state: ``done``, ``running``, ``waiting``, ``failed``, ``skipped`` or ``not run``.
        attempts: Its pods, oldest first.
        message: Why it waits or has failed; otherwise empty.
        cached: Whether its outputs are those of an earlier run.
        log_uri: Where its first pod has left its log; empty if unknown.
    """

    name: str
    state: str
    attempts: tuple[Attempt, ...] = ()
    message: str = ""
    cached: bool = False
    log_uri: str = ""

    @property
    def seconds(self) -> float | None:
        """From the start of its first pod to the end of its last one."""
        if not self.attempts or not self.attempts[0].started or not self.attempts[-1].ended:
            return None
        start, end = (
            datetime.fromisoformat(text) for text in (self.attempts[0].started, self.attempts[-1].ended)
        )
        return (end - start).total_seconds()


def stop_reason(workflow: Mapping[str, Any]) -> str:
    """Returns why a run was stopped: CANCELLED, PAST_DEADLINE, or "" if it was not.

    KFP cancels a run by setting the deadline to 0 (TerminateWorkflow of kubeflow/pipelines 2.17,
    backend/src/apiserver/resource/resource_manager.go), Argo by setting ``shutdown``. A Workflow that is
    being deleted is cancelled, too.
    """
    spec, status = workflow.get("spec") or {}, workflow.get("status") or {}
    deadline = spec.get("activeDeadlineSeconds")
    if deadline == 0 or spec.get("shutdown") or "deletionTimestamp" in (workflow.get("metadata") or {}):
        return CANCELLED
    if not deadline or not status.get("startedAt"):
        return ""
    ended = status.get("finishedAt")
    end = datetime.fromisoformat(ended) if ended else datetime.now(UTC) + _CLOCK_TOLERANCE
    has_passed = end - datetime.fromisoformat(status["startedAt"]) >= timedelta(seconds=deadline)
    return PAST_DEADLINE if has_passed else ""


def last_attempts(workflow: Mapping[str, Any]) -> list[tuple[str, Attempt]]:
    """Returns each step with its last pod, in the order of their ends, without those of an exit handler.

    The pod of a driver, which starts a step, is one of the step.
    """
    latest: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for node in sorted(_nodes(workflow), key=lambda node: str(node.get("startedAt") or "")):
        path = _path(node)
        if node.get("type") == "Pod" and _ON_EXIT not in path:
            latest[path] = node
    ended = sorted(latest.items(), key=lambda item: str(item[1].get("finishedAt") or "~"))
    return [
        (
            step_name(path[-2] if path[-1] == _EXECUTOR else path[-1].removesuffix("-driver")),
            _attempt(node),
        )
        for path, node in ended
    ]


def steps_of(workflow: Mapping[str, Any], spec: Mapping[str, Any]) -> list[Step]:
    """Returns the steps of a run in the pipeline's order.

    Args:
        workflow: The Workflow.
        spec: The pipeline's specification (PipelineSpec).
    """
    nodes = [(_path(node), node) for node in _nodes(workflow)]
    ended = bool(workflow.get("status", {}).get("finishedAt"))
    return [_step(task, nodes, ended=ended) for task in ordered_tasks(spec)]


def step_name(task: str) -> str:
    """Returns the name of a task's step, e.g. ``batch_predict`` of ``batch-predict``."""
    return task.replace("-", "_")


def ordered_tasks(spec: Mapping[str, Any]) -> list[str]:
    """Returns the tasks of a pipeline in its order; those of an exit handler in place of it."""
    return list(_ordered(spec, spec["root"]))


def _ordered(spec: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[str]:
    tasks = component["dag"]["tasks"]
    remaining = dict(tasks)
    while remaining:
        # The specification has them in the alphabet's order, and no cycles.
        ready = [name for name in remaining if not _needs(tasks[name]) & remaining.keys()]
        for name in ready:
            del remaining[name]
            inner = spec["components"][tasks[name]["componentRef"]["name"]]
            if "dag" in inner:
                yield from _ordered(spec, inner)
            else:
                yield name


def _needs(task: Mapping[str, Any]) -> set[str]:
    needed = set(task.get("dependentTasks", ()))
    for kind in task.get("inputs", {}).values():
        for value in kind.values():
            source = value.get("taskOutputParameter") or value.get("taskOutputArtifact") or {}
            needed.add(source.get("producerTask"))
    return needed - {None}


def _nodes(workflow: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    status = workflow.get("status", {})
    nodes = status.get("nodes") or {}
    # Argo compresses a large status (argo-workflows 4.0.5, util/file/fileutil.go).
    if not nodes and status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(status["compressedNodes"])))
    return list(nodes.values())


def _path(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the path of a node without the numbers of attempts."""
    return tuple(re.sub(r"\(\d+\)$", "", part) for part in str(node.get("name", "")).split("."))


def _step(task: str, nodes: list[tuple[tuple[str, ...], Mapping[str, Any]]], *, ended: bool) -> Step:
    name = step_name(task)
    pods = sorted(
        (node for path, node in nodes if path[-2:] == (task, _EXECUTOR) and node.get("type") == "Pod"),
        key=lambda node: str(node.get("startedAt") or ""),
    )
    attempts = tuple(_attempt(node) for node in pods)
    own = [node for path, node in nodes if path[-1] == task]
    # When the pipeline itself is tried again, its first step may fail: this one keeps what it did before.
    own = [node for node in own if node.get("phase") != "Omitted"] or own
    driver = [node for path, node in nodes if path[-1] == f"{task}-driver"]
    log_uri = next(filter(None, map(_log_uri, driver)), "")
    cached = any(
        parameter.get("name") == "cached-decision" and parameter.get("value") == "true"
        for node in driver
        for parameter in node.get("outputs", {}).get("parameters", ())
    )
    # Of the nested retries, the outermost has the shortest name; what is around it may have been retried too.
    outer = max(own, key=lambda node: (-len(node["name"]), str(node.get("startedAt") or "")), default=None)
    if outer is None:
        failed = [node for node in driver if _STATES.get(node.get("phase", "")) == FAILED]
        waiting = [node for node in driver if node.get("phase") == "Pending"]
        if failed:
            return Step(name, FAILED, message=_reason(failed))
        if driver and not ended:
            return Step(name, WAITING if waiting else RUNNING, message=_reason(waiting))
        return Step(name, NOT_RUN)
    state = _STATES.get(outer.get("phase", ""), RUNNING)
    if state in (RUNNING, WAITING) and ended:
        state = FAILED
    elif state == RUNNING and attempts and attempts[-1].state == WAITING:
        state = WAITING
    message = ""
    if state in (FAILED, WAITING):
        message = _reason(pods[-1:] or own)
    return Step(name, state, attempts, message, cached, log_uri)


def _attempt(node: Mapping[str, Any]) -> Attempt:
    message = str(node.get("message") or "")
    # Both end with one digest (GeneratePodName in argo-workflows 4.0.5, workflow/util/pod_name.go).
    workflow, _, digest = str(node.get("id", "")).rpartition("-")
    template = node.get("templateName")
    return Attempt(
        str(node.get("id", "")),
        f"{workflow}-{template}-{digest}" if template else "",
        _STATES.get(node.get("phase", ""), RUNNING),
        str(node.get("startedAt") or ""),
        str(node.get("finishedAt") or ""),
        "" if message in _STARTING else message,
    )


def _reason(nodes: list[Mapping[str, Any]]) -> str:
    """Returns the first message: later attempts of a refused pod fail for another reason."""
    messages = (str(node.get("message") or "") for node in nodes)
    return next((message for message in messages if message not in _STARTING), "")


def _log_uri(driver: Mapping[str, Any]) -> str:
    """Returns the URI of the artifact executor-logs, which a driver puts into the command of the step's pod.

    See initPodSpecPatch and provisionOutputs of kubeflow/pipelines 2.17 (backend/src/v2/driver/driver.go).
    """
    for parameter in driver.get("outputs", {}).get("parameters", ()):
        if parameter.get("name") != "pod-spec-patch" or not parameter.get("value"):
            continue
        try:
            [container] = json.loads(parameter["value"])["containers"]
            command = [*container.get("command", ()), *container.get("args", ())]
            given = json.loads(command[command.index("--executor_input") + 1])
            return str(given["outputs"]["artifacts"]["executor-logs"]["artifacts"][0]["uri"])
        except (ValueError, LookupError, TypeError):
            continue
    return ""
