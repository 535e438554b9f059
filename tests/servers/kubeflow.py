"""The API of a Kubeflow Pipelines installation on loopback, with the pod logs of its cluster.

A run's specification is parsed with KFP's message types, and its parameters are checked as KFP checks them.
The pods that KFP's driver would request from Kubernetes are derived from the YAML that was received. The
steps run with kfp.local as processes on this machine.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.servers.http_server import access_review, serve_json

TYPES = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "STRUCT": dict,
    "LIST": list,
}
DONE = ("SUCCEEDED", "FAILED", "CANCELED")


class KubeflowServer:
    """The server's resources; ``start_kubeflow_server`` starts one.

    Attributes:
        runs: Runs by id, as the API returns them.
        recurring_runs: Recurring runs by id.
        run_commands: Whether the steps are run.
        final_state: State of every new run, unless None.
        forced_responses: (status, content) of the next responses.
        login: Response without credentials: "redirect" to a login page, or the "page"; empty = no login.
        credentials: Headers, of which one is sufficient.
        open_paths: Paths that need no credentials.
        headers: Headers of the requests.
        secrets: The entries of Secrets, by name.
        denied: What the account of the pods may not do; see ``access_review``.
        clock: Returns the time of a creation.
        log_responses: (status, text) of the next responses with a pod's log; the run ends with the last one.
    """

    def __init__(self, folder):
        self.folder = folder
        self.runs = {}
        self.recurring_runs = {}
        self.experiments = {}
        self.requests = []
        self.forced_responses = []
        self.login = ""
        self.credentials = {}
        self.open_paths = ()
        self.headers = []
        self.run_commands = False
        self.final_state = None
        self.processes = {}
        self.logs = {}
        self.log_responses = []
        self.denied = ()
        self.secrets = {}
        self.clock = lambda: datetime.now(UTC)
        self.lock = threading.RLock()
        self.address = ""

    def require_login(self, handler):
        """Sends the login page, or a redirect, to a client without credentials; returns whether it did."""
        path = urllib.parse.urlsplit(handler.path).path
        self.headers.append(handler.headers)
        logged_in = any(handler.headers.get(name) == value for name, value in self.credentials.items())
        if not self.login or logged_in or path in self.open_paths:
            return False
        page = b"<!doctype html><title>Log in</title>"
        if self.login == "redirect" and path != "/login":
            handler.send(302, page, Content_Type="text/html", Location="/login?state=secret")
        else:
            handler.send(200, page, Content_Type="text/html")
        return True

    def respond(self, method, path, query, body):
        with self.lock:
            self.requests.append((method, path))
            review = access_review(
                path, json.loads(body) if path.startswith("/apis/auth") else None, self.denied
            )
            if review is not None:
                return review
            if path.startswith("/api/v1/namespaces/"):
                return self._kubernetes(path, query)
            if self.forced_responses:
                return self.forced_responses.pop(0)
            path, _, verb = path.removeprefix("/apis/v2beta1/").partition(":")
            collection, _, identifier = path.partition("/")
            if collection == "healthz":
                return 200, {"multi_user": False}
            if query.get("namespace"):
                return 400, "in single-user mode, the namespace should be empty"
            collections = {
                "experiments": self.experiments,
                "runs": self.runs,
                "recurringruns": self.recurring_runs,
            }
            resources = collections[collection]
            if method == "POST" and not identifier:
                return self._create(collection, resources, json.loads(body))
            if method == "GET" and not identifier:
                return self._list(collection, resources, query)
            if identifier not in resources:
                return 404, f"{identifier} not found"
            if method == "DELETE":
                del resources[identifier]
                return 200, {}
            if verb == "terminate":
                # run_store.go, TerminateRun (kubeflow/pipelines 2.17).
                if resources[identifier]["state"] not in ("PENDING", "RUNNING", "PAUSED"):
                    return 400, f"Failed to terminate a run {identifier}. Row not found"
                self._end(identifier, "CANCELED")
                with suppress(KeyError, ProcessLookupError):
                    os.killpg(self.processes[identifier].pid, signal.SIGTERM)
                return 200, {}
            if verb in ("disable", "enable"):
                resources[identifier]["status"] = verb.upper() + "D"
                return 200, {}
            return 200, resources[identifier]

    def _create(self, collection, resources, resource):
        key = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}[
            collection
        ]
        now = self.clock().isoformat()
        resource = {**resource, key: str(uuid.uuid4()), "created_at": now}
        if collection == "experiments":
            # Their names are unique: experiment_store.go (kubeflow/pipelines 2.17), IsDuplicateError.
            if resource["display_name"] in [found["display_name"] for found in resources.values()]:
                return 409, f"the experiment {resource['display_name']} already exists"
        else:
            try:
                self._check(resource)
            except (ValueError, json_format.ParseError) as error:
                return 400, str(error)
        if collection == "recurringruns":
            resource["status"] = "ENABLED" if resource.get("mode") == "ENABLE" else "DISABLED"
        resources[resource[key]] = resource
        if collection == "runs":
            resource["state"] = self.final_state or "PENDING"
            if self.run_commands:
                threading.Thread(target=self._run, args=(resource["run_id"],), daemon=True).start()
        return 200, resource

    def _list(self, collection, resources, query):
        found = list(resources.values())
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            key, value = predicate["key"], predicate["stringValue"]
            found = [resource for resource in found if resource.get(key) == value]
        if query.get("experiment_id"):
            found = [run for run in found if run.get("experiment_id") == query["experiment_id"]]
        name = {"recurringruns": "recurringRuns"}.get(collection, collection)
        return 200, {name: found[::-1], "total_size": len(found)}

    def _check(self, run):
        spec = run["pipeline_spec"]
        json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec["platform_spec"], pipeline_spec_pb2.PlatformSpec())
        declared = spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        for name, value in run["runtime_config"].get("parameters", {}).items():
            if name not in declared:
                raise ValueError(f"the pipeline has no parameter {name}")
            if not isinstance(value, TYPES[declared[name]["parameterType"]]):
                raise ValueError(f"parameter {name} is not a {declared[name]['parameterType']}")

    def pods(self, run_id):
        """Returns what KFP's driver requests from Kubernetes for each step: image, resources, nodes."""
        run = self.runs[run_id]
        spec, platform = (run["pipeline_spec"][name] for name in ("pipeline_spec", "platform_spec"))
        declared = spec["root"]["inputDefinitions"]["parameters"]
        given = run["runtime_config"].get("parameters", {})
        values = {
            name: given.get(name, parameter.get("defaultValue")) for name, parameter in declared.items()
        }
        pods = {}
        for name, task in spec["root"]["dag"]["tasks"].items():
            if f"exec-{name}" not in spec["deploymentSpec"]["executors"]:
                # A condition: a subgraph, whose steps have the same pods as the others.
                continue
            inputs = task["inputs"].get("parameters", {})

            def resolved(text, inputs=inputs):
                match = re.fullmatch(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}", text)
                return values[inputs[match.group(1)]["componentInputParameter"]] if match else text

            container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
            resources = container.get("resources", {})
            kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{name}"]
            pod = {
                "image": resolved(container["image"]),
                "cpu": resolved(str(resources.get("resourceCpuRequest", ""))),
                "memory": resolved(str(resources.get("resourceMemoryRequest", ""))),
            }
            accelerator = resources.get("accelerator", {})
            kind = resolved(str(accelerator.get("resourceType", "")))
            # The driver ignores an accelerator without a type.
            if kind:
                pod["accelerator"] = {kind: int(resolved(str(accelerator["resourceCount"])))}
            if "nodeSelector" in kubernetes:
                reference = kubernetes["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"]
                pod["node_selector"] = values[reference]
            if "tolerations" in kubernetes:
                [toleration] = kubernetes["tolerations"]
                pod["tolerations"] = values[toleration["tolerationJson"]["componentInputParameter"]]
            pods[name] = pod
        return pods

    def _end(self, run_id, state):
        run = self.runs[run_id]
        if run["state"] not in DONE:
            run.update(state=state, finished_at=datetime.now(UTC).isoformat())

    def _run(self, run_id):
        with self.lock:
            run = self.runs[run_id]
            folder = self.folder / run_id
            folder.mkdir(parents=True)
            documents = [run["pipeline_spec"]["pipeline_spec"], run["pipeline_spec"]["platform_spec"]]
            (folder / "pipeline.yaml").write_text(yaml.safe_dump_all(documents))
            request = {
                "pipeline": str(folder / "pipeline.yaml"),
                "parameters": run["runtime_config"].get("parameters", {}),
                "artifacts": str(folder / "artifacts"),
            }
            run["state"] = "RUNNING"
            process = self.processes[run_id] = subprocess.Popen(
                [sys.executable, "-m", "imgpipe.pipelines.targets.local"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        with process.stdin:
            json.dump(request, process.stdin)
        lines = self.logs.setdefault(run_id, [])
        for line in process.stdout:
            lines.append(line)
        status = process.wait()
        with self.lock:
            self._end(run_id, "SUCCEEDED" if status == 0 else "FAILED")

    def _kubernetes(self, path, query):
        parts = path.split("/")
        if parts[5] == "secrets":
            if parts[6] not in self.secrets:
                return 404, f'secrets "{parts[6]}" not found'
            data = {
                name: base64.b64encode(text.encode()).decode()
                for name, text in self.secrets[parts[6]].items()
            }
            return 200, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": parts[6]}, "data": data}
        if parts[5:] == ["pods"]:
            [run_id] = re.findall("pipeline/runid=(.+)", query["labelSelector"])
            stamp = "2026-11-23T00:00:00Z"
            items = [
                {"metadata": {"name": f"{run_id}{part}", "creationTimestamp": stamp}}
                for part in ("-system-dag-driver-1", "-system-container-impl-2")
                if run_id in self.logs
            ]
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": items, "metadata": {}}
        run_id = parts[6].removesuffix("-system-container-impl-2")
        if self.log_responses:
            status, text = self.log_responses.pop(0)
            if not self.log_responses:
                self.logs[run_id] = [text]
                self.runs[run_id]["state"] = "SUCCEEDED"
            return status, text
        return 200, "".join(self.logs[run_id])

    def wait_for(self, run_id, seconds=60):
        """Waits until a run has ended."""
        deadline = time.monotonic() + seconds
        while self.runs[run_id]["state"] not in DONE:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def kubeconfig(folder, server):
    """Writes a kubeconfig file for the server and returns its path."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server.address}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(content))
    return str(folder / "kubeconfig")


def use_kubeconfig(monkeypatch: Any, folder: Path, server: Any) -> None:
    """Makes the server the cluster of the default kubeconfig file."""
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig(folder, server)
    )


@contextmanager
def start_kubeflow_server(folder, server_class=KubeflowServer):
    """Yields a server; the processes that it has started end with it."""
    server = server_class(Path(folder))

    def respond(method, path, query, body):
        status, content = server.respond(method, path, query, body)
        return status, content if status < 300 else {"message": content, "code": status}

    with serve_json(respond, server.require_login) as server.address:
        try:
            yield server
        finally:
            for process in server.processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
