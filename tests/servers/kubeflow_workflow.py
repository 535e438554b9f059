"""The Argo Workflow of a run, as Kubeflow Pipelines 2.17 with Argo 4.0.5 has it."""

import json
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

# Argo's phases that end a node.
ENDED = ("Succeeded", "Failed", "Error", "Skipped", "Omitted")
WORKFLOW = "image-classification-x7k2p"


@dataclass
class Pod:
    """A pod of a step.

    Attributes:
        phase: Of its node in the Workflow.
        message: Of its node.
        log: The output of its container.
        seconds: Its duration.
        warnings: The messages of its warning events, oldest first.
    """

    phase: str = "Succeeded"
    message: str = ""
    log: str = ""
    seconds: int = 10
    warnings: tuple = ()


@dataclass
class WorkflowState:
    """What has happened in a run.

    Attributes:
        pods: The pods of each step that has started.
        omitted: Steps that depend on a failed one.
        cached: Steps that the cache has replaced.
        cancelled: Whether the user has cancelled the run.
        deadline: Seconds after which it was ended; 0 = it was not.
        finished: Whether the Workflow has ended.
    """

    pods: dict[str, list[Pod]] = field(default_factory=dict)
    omitted: tuple = ()
    cached: tuple = ()
    # The tasks around a step that is not directly in the pipeline.
    parents: dict[str, str] = field(default_factory=dict)
    cancelled: bool = False
    deadline: int = 0
    finished: bool = False

    def manifest(self, run_id):
        """Returns the Workflow; each template is retried, so that a node and its attempt are two nodes."""
        nodes = {}
        clock = iter(range(0, 10_000, 20))

        def add(name, kind, phase, start, *, seconds=10, message="", **more):
            node = {
                "id": node_id(name),
                "name": name,
                # Argo shows the last part of the name.
                "displayName": name.rpartition(".")[2],
                "type": kind,
                "phase": phase,
                "startedAt": stamp(start),
                **({"finishedAt": stamp(start + seconds)} if phase in ENDED else {}),
                **({"message": message} if message else {}),
                **more,
            }
            nodes[node["id"]] = node

        last = [pods[-1].phase for pods in self.pods.values()]
        phase = "Running"
        if self.finished:
            phase = "Failed" if {"Failed", "Error"} & set(last) or self.cancelled else "Succeeded"
        # In no order: Go's maps have none.
        root = f"{WORKFLOW}(0).root(0)"
        for step in reversed([*self.cached, *self.pods, *self.omitted]):
            start = next(clock)
            path = self.path(step)
            if step in self.omitted:
                add(path, "Skipped", "Omitted", start)
                continue
            decision = "true" if step in self.cached else "false"
            parameters = [{"name": "cached-decision", "value": decision}, pod_spec_patch(run_id, step)]
            add(f"{path}-driver", "Retry", "Succeeded", start)
            add(f"{path}-driver(0)", "Pod", "Succeeded", start, outputs={"parameters": parameters})
            if step in self.cached:
                add(path, "Retry", "Succeeded", start)
                add(f"{path}(0)", "DAG", "Succeeded", start)
                add(f"{path}(0).executor", "Skipped", "Skipped", start)
                continue
            pods = self.pods[step]
            outer = pods[-1].phase if pods[-1].phase in ENDED else "Running"
            add(path, "Retry", outer, start)
            add(f"{path}(0)", "DAG", outer, start)
            add(f"{path}(0).executor", "Retry", outer, start)
            for number, pod in enumerate(pods):
                add(
                    f"{path}(0).executor({number})",
                    "Pod",
                    pod.phase,
                    start + 100 * number,
                    seconds=pod.seconds,
                    message=pod.message,
                    templateName=f"{run_id}--{step}--{number}",
                )
        for name in (WORKFLOW, f"{WORKFLOW}(0)", f"{WORKFLOW}(0).root-driver", f"{WORKFLOW}(0).root", root):
            add(name, "DAG", phase, 0)
        # TerminateWorkflow in resource_manager.go (kubeflow/pipelines 2.17).
        spec = {"activeDeadlineSeconds": 0 if self.cancelled else self.deadline or 7 * 24 * 3600}
        status = {"nodes": nodes, "phase": phase, "startedAt": stamp(0)}
        if self.finished:
            status["finishedAt"] = stamp(self.deadline + 1 if self.deadline else 9_999)
        return {"metadata": {"name": WORKFLOW}, "spec": spec, "status": status}

    def path(self, step):
        """Returns the name of a step's node; the task of batch_predict is batch-predict."""
        parent = f".{self.parents[step]}(0)" if step in self.parents else ""
        return f"{WORKFLOW}(0).root(0){parent}.{step.replace('_', '-')}"

    def tasks(self, run_id):
        """Returns the run's ``task_details``: a task per node, in no order.

        NodeStatuses in workflow.go (kubeflow/pipelines 2.17) adds nothing to a node's name and phase.
        """
        states = {"Succeeded": "SUCCEEDED", "Failed": "FAILED", "Error": "FAILED", "Running": "RUNNING"}
        nodes = self.manifest(run_id)["status"]["nodes"].values()
        found = [
            {
                "run_id": run_id,
                "display_name": node["displayName"],
                "state": states.get(node["phase"], "PENDING"),
                "start_time": node["startedAt"],
            }
            for node in nodes
        ]
        return [*found, {"run_id": run_id}]


def node_id(name):
    """Returns the id of a node; Argo's NodeID has another hash."""
    return f"{WORKFLOW}-{zlib.crc32(name.encode())}"


def stamp(seconds):
    return f"{datetime(2026, 11, 28) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def pod_spec_patch(run_id, step):
    """Returns the driver's output: the command of the pod (initPodSpecPatch, driver.go of KFP 2.17)."""
    uri = f"minio://mlpipeline/v2/artifacts/image-classification/{run_id}/{step}/salt/executor-logs"
    executor_input = {"outputs": {"artifacts": {"executor-logs": {"artifacts": [{"uri": uri}]}}}}
    command = ["/kfp-launcher/launch", "--run_id", run_id, "--executor_input", json.dumps(executor_input)]
    return {"name": "pod-spec-patch", "value": json.dumps({"containers": [{"command": command}]})}
