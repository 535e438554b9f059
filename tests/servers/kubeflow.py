"""The interface of a Kubeflow Pipelines installation on loopback, with the pods' logs of its cluster.

A run's specification is parsed with KFP's own messages and its parameters are checked as KFP checks them.
What KFP's driver would ask of Kubernetes for each step is worked out from the YAML; the steps themselves run
with kfp.local as processes of this machine, from the YAML that was received.
"""

import http.server
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

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

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
    """What the server holds.

    Attributes:
        runs: By id, as the interface shows them.
        recurring_runs: By id.
        run_commands: Whether the steps are really run.
        final_state: In which every run is made, instead.
        refusals: Answers to give instead: (status, message).
        login: What a stranger gets: "redirect" to a page for logging in, "page" at once; empty = an answer.
        known: Headers of which one lets in.
        open_paths: Where a stranger gets answers nevertheless.
        headers: Of the requests.
    """

    def __init__(self, folder):
        self.folder = folder
        self.runs = {}
        self.recurring_runs = {}
        self.experiments = {}
        self.requests = []
        self.refusals = []
        self.login = ""
        self.known = {}
        self.open_paths = ()
        self.headers = []
        self.run_commands = False
        self.final_state = None
        self.processes = {}
        self.logs = {}
        # Status and text of the next answers to who asks for a pod's log; the run ends with the last one.
        self.log_answers = []
        self.lock = threading.RLock()
        self.address = ""

    def is_stranger(self, path, headers):
        self.headers.append(headers)
        let_in = any(headers.get(name) == value for name, value in self.known.items())
        return bool(self.login) and not let_in and path not in self.open_paths

    def answer(self, method, path, query, body):
        with self.lock:
            self.requests.append((method, path))
            if path.startswith("/api/v1/namespaces/"):
                return self._kubernetes(path, query)
            if self.refusals:
                return self.refusals.pop(0)
            path, _, verb = path.removeprefix("/apis/v2beta1/").partition(":")
            collection, _, identifier = path.partition("/")
            if collection == "healthz":
                return 200, {"multi_user": False}
            if query.get("namespace"):
                return 400, "in single-user mode, the namespace should be empty"
            held = {"experiments": self.experiments, "runs": self.runs, "recurringruns": self.recurring_runs}
            held = held[collection]
            if method == "POST" and not identifier:
                return self._create(collection, held, json.loads(body))
            if method == "GET" and not identifier:
                return self._list(collection, held, query)
            if identifier not in held:
                return 404, f"{identifier} not found"
            if method == "DELETE":
                del held[identifier]
                return 200, {}
            if verb == "terminate":
                self._end(identifier, "CANCELED")
                with suppress(KeyError, ProcessLookupError):
                    os.killpg(self.processes[identifier].pid, signal.SIGTERM)
                return 200, {}
            if verb in ("disable", "enable"):
                held[identifier]["status"] = verb.upper() + "D"
                return 200, {}
            return 200, held[identifier]

    def _create(self, collection, held, resource):
        key = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}[
            collection
        ]
        now = datetime.now(UTC).isoformat()
        resource = {**resource, key: str(uuid.uuid4()), "created_at": now}
        if collection != "experiments":
            try:
                self._check(resource)
            except (ValueError, json_format.ParseError) as error:
                return 400, str(error)
        if collection == "recurringruns":
            resource["status"] = "ENABLED" if resource.get("mode") == "ENABLE" else "DISABLED"
        held[resource[key]] = resource
        if collection == "runs":
            resource["state"] = self.final_state or "PENDING"
            if self.run_commands:
                threading.Thread(target=self._run, args=(resource["run_id"],), daemon=True).start()
        return 200, resource

    def _list(self, collection, held, query):
        found = list(held.values())
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            key, value = predicate["key"], predicate["stringValue"]
            found = [one for one in found if one.get(key) == value]
        if query.get("experiment_id"):
            found = [one for one in found if one.get("experiment_id") == query["experiment_id"]]
        name = {"recurringruns": "recurringRuns"}.get(collection, collection)
        return 200, {name: found[::-1], "total_size": len(found)}

    def _check(self, run):
        spec = run["pipeline_spec"]
        json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec["platform_spec"], pipeline_spec_pb2.PlatformSpec())
        declared = spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        for name, value in run["runtime_config"].get("parameters", {}).items():
            if name not in declared:
                raise ValueError(f"parameter {name} is not of the pipeline")
            if not isinstance(value, TYPES[declared[name]["parameterType"]]):
                raise ValueError(f"parameter {name} is not a {declared[name]['parameterType']}")

    def pods(self, run_id):
        """Returns what KFP's driver asks of Kubernetes for each step: image, resources, nodes."""
        run = self.runs[run_id]
        spec, platform = (run["pipeline_spec"][name] for name in ("pipeline_spec", "platform_spec"))
        declared = spec["root"]["inputDefinitions"]["parameters"]
        given = run["runtime_config"].get("parameters", {})
        values = {name: given.get(name, one.get("defaultValue")) for name, one in declared.items()}
        pods = {}
        for name, task in spec["root"]["dag"]["tasks"].items():
            if f"exec-{name}" not in spec["deploymentSpec"]["executors"]:
                # A condition: a graph of steps that run on pods like those of the others.
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
            # The driver leaves out an accelerator without a type.
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
        if self.log_answers:
            status, text = self.log_answers.pop(0)
            if not self.log_answers:
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


def use_kubeconfig(monkeypatch, folder, server):
    """Makes the server the cluster of the default kubeconfig file."""
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig(folder, server)
    )


@contextmanager
def start_kubeflow_server(folder):
    """Yields a server; whatever it has started is ended with it."""
    held = KubeflowServer(Path(folder))

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def respond(self):
            split = urllib.parse.urlsplit(self.path)
            query = {key: values[0] for key, values in urllib.parse.parse_qs(split.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if held.is_stranger(split.path, self.headers):
                self.show_login(split.path)
                return
            status, answer = held.answer(self.command, urllib.parse.unquote(split.path), query, body)
            if status != 200:
                answer = {"message": answer, "code": status}
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def show_login(self, path):
            content = b"<!doctype html><title>Log in</title>"
            if held.login == "redirect" and path != "/login":
                self.send_response(302)
                self.send_header("Location", "/login?state=secret")
            else:
                self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = respond  # noqa: N815 - the base class wants these names

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield held
    finally:
        for process in held.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        server.shutdown()
        server.server_close()
