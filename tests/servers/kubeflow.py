"""The API of a Kubeflow Pipelines installation on loopback, with the pod logs of its cluster.

A run's specification is parsed with KFP's message types, and its parameters are checked as KFP checks them.
The pods that KFP's driver would request from Kubernetes are derived from the YAML that was received. The
steps run with kfp.local as processes on this machine.
"""

import base64
import json
import re
import threading
import urllib.parse
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from imgpipe.components.common.log import LOG_FORMAT_VARIABLE
from tests.servers.http_server import access_review, serve_json
from tests.servers.kubeflow_rules import (
    RefusedError,
    check_cron,
    check_inputs,
    check_kubernetes_name,
    check_length,
    page_of,
)
from tests.servers.kubeflow_workflow import WORKFLOW, Pod, WorkflowState, node_id
from tests.servers.processes import end_process, ending_processes, start_pipeline
from tests.waiting import wait_until

DONE = ("SUCCEEDED", "FAILED", "CANCELED")
# Of the components that share a pod; each logs as a step of its own would.
STEP_OF = {
    **dict.fromkeys(("data_version", "form_settings", "serving_model"), "prepare"),
    **dict.fromkeys(("export", "gate", "deploy"), "publish"),
}


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
        failed_cancellations: How many of the next cancellations do not reach the Workflow.
        clock: Returns the time of a creation.
        log_responses: (status, text) of the next responses with a pod's log; the run ends with the last one.
        workflows: What has happened in each run, by its id; its pods and artifacts have the logs.
        pods_exist: Whether the cluster still has the pods. They are deleted after an hour; the database keeps
            the Workflow.
        has_interface: Whether the address is that of the web interface, which reads artifacts.
        forbidden: What the account may not do: list ``pods``, read ``pods/log``, create ``pipelines``, list
            ``scheduledworkflows``.
        experiments_of_katib: Katib's Experiments by the id of the run in their label.
        triggers: When each recurring run starts the next run, by its id.
        pipelines: Pipelines by id.
        versions: Versions of all pipelines by id, with their specification.
        multi_user: The user's namespace in multi-user mode; empty = single-user mode.
        stores_in_kubernetes: Whether pipelines and their versions are objects of Kubernetes.
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
        self.workflows = {}
        self.pipelines = {}
        self.versions = {}
        self.multi_user = ""
        self.stores_in_kubernetes = False
        self.pods_exist = True
        self.has_interface = True
        self.forbidden = ()
        self.triggers = {}
        self.experiments_of_katib = {}
        self.log_responses = []
        self.denied = ()
        self.failed_cancellations = 0
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
        try:
            return self._respond(method, path, query, body)
        except RefusedError as refusal:
            return refusal.status, str(refusal)

    def _respond(self, method, path, query, body):
        with self.lock:
            self.requests.append((method, path))
            review = access_review(
                path, json.loads(body) if path.startswith("/apis/auth") else None, self.denied
            )
            if review is not None:
                return review
            if path.startswith("/api/v1/namespaces/"):
                return self._kubernetes(path, query)
            if path.endswith("/scheduledworkflows"):
                if "scheduledworkflows" in self.forbidden:
                    return 403, 'User "team" cannot list resource "scheduledworkflows"'
                items = [
                    {"metadata": {"uid": uid}, "status": {"trigger": {"nextTriggeredTime": trigger}}}
                    for uid, trigger in self.triggers.items()
                ]
                return 200, {"kind": "ScheduledWorkflowList", "items": items, "metadata": {}}
            if method == "DELETE" and path.endswith("/experiments") and "labelSelector" in query:
                _, _, run_id = query["labelSelector"].partition("imgpipe/run=")
                self.experiments_of_katib.pop(run_id, None)
                return 200, {"kind": "ExperimentList", "items": [], "metadata": {}}
            if path == "/artifacts/get":
                return self._artifact(query)
            if self.forced_responses:
                return self.forced_responses.pop(0)
            if path.startswith("/apis/v1beta1/runs/"):
                return self._run_of_version_1(path.rpartition("/")[2])
            path, _, verb = path.removeprefix("/apis/v2beta1/").partition(":")
            collection, _, identifier = path.partition("/")
            if collection == "healthz":
                return 200, {"multi_user": bool(self.multi_user)}
            if collection == "pipelines":
                return self._pipelines(method, identifier, query, body)
            if collection == "experiments" and self.multi_user:
                given = query if method == "GET" else json.loads(body)
                self._check_namespace(given.get("namespace"))
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
                # DeleteJob in resource_manager.go, SetOwnerReferences in workflow.go (2.17): the Workflows
                # that a recurring run has started belong to it. They are deleted; their runs stay RUNNING.
                if collection == "recurringruns" and query.get("propagation_policy") != "ORPHAN":
                    for run_id, run in self.runs.items():
                        if run.get("recurring_run_id") == identifier:
                            self.workflows.pop(run_id, None)
                del resources[identifier]
                return 200, {}
            if verb == "terminate":
                # TerminateRun in run_store.go (kubeflow/pipelines 2.17) changes only these states.
                if resources[identifier]["state"] not in ("PENDING", "RUNNING", "PAUSED"):
                    return 400, f"Failed to terminate a run {identifier}. Row not found"
                if self.failed_cancellations:
                    # The Workflow is changed after the state (TerminateRun in resource_manager.go, 2.17).
                    self.failed_cancellations -= 1
                    resources[identifier]["state"] = "CANCELING"
                    return 500, f"Failed to terminate run {identifier} due to error terminating its workflow"
                self._end(identifier, "FAILED")
                workflow = self.workflows.setdefault(identifier, WorkflowState())
                workflow.cancelled = workflow.finished = True
                if process := self.processes.get(identifier):
                    end_process(process)
                return 200, {}
            if verb in ("disable", "enable"):
                resources[identifier]["status"] = verb.upper() + "D"
                return 200, {}
            if collection == "runs" and identifier in self.workflows:
                tasks = self.workflows[identifier].tasks(identifier)
                return 200, {**resources[identifier], "run_details": {"task_details": tasks}}
            return 200, resources[identifier]

    def _check_namespace(self, namespace):
        # canAccessExperiment in experiment_server.go (kubeflow/pipelines 2.17).
        if not namespace:
            raise RefusedError(400, "An experiment cannot have an empty namespace in multi-user mode")
        if namespace != self.multi_user:
            raise RefusedError(403, f"User 'team' is not authorized in namespace {namespace}")

    def _pipelines(self, method, path, query, body):
        """Creates, uploads and lists pipelines and their versions."""
        pipeline_id, _, rest = path.partition("/")
        if method == "POST" and "pipelines" in self.forbidden:
            # UploadPipelineVersion in pipeline_upload_server.go (2.17) gives no reason.
            return (400, "Failed to create a pipeline version") if path else (403, "not authorized")
        if path == "upload_version":
            return self._upload(query, body)
        if method == "POST":
            pipeline = json.loads(body)
            check_length("Pipeline", "Name", pipeline["name"], 128)
            if self.stores_in_kubernetes:
                check_kubernetes_name("pipeline", pipeline["name"])
            # Names are unique in a namespace: uniqueIndex in backend/src/apiserver/model/pipeline.go (2.17).
            unique = ("name", "namespace")
            same = [
                found
                for found in self.pipelines.values()
                if all(found.get(name) == pipeline.get(name) for name in unique)
            ]
            if same:
                return 409, "already exists"
            pipeline["pipeline_id"] = str(uuid.uuid4())
            self.pipelines[pipeline["pipeline_id"]] = pipeline
            return 200, pipeline
        if not path:
            return self._list("pipelines", self.pipelines, query)
        version_id = rest.removeprefix("versions").strip("/")
        if version_id:
            found = self.versions.get(version_id)
            return (200, found) if found else (404, f"{version_id} not found")
        versions = {key: found for key, found in self.versions.items() if found["pipeline_id"] == pipeline_id}
        return self._list("pipeline_versions", versions, query)

    def _upload(self, query, body):
        # CreatePipelineVersion in resource_manager.go (2.17): names are unique in a pipeline.
        pipeline_id, name = query["pipelineid"], query["name"]
        check_length("PipelineVersion", "Name", name, 127)
        if pipeline_id not in self.pipelines:
            return 400, "Failed to create a pipeline version"
        if self.stores_in_kubernetes:
            check_kubernetes_name("pipeline version", name)
        same = [found for found in self.versions.values() if found["name"] == name]
        if any(found["pipeline_id"] == pipeline_id for found in same):
            return 409, "Failed to create a pipeline version"
        boundary = body.split(b"\r\n", 1)[0]
        text = body.split(b"\r\n\r\n", 1)[1].split(b"\r\n" + boundary, 1)[0]
        spec, platform = yaml.safe_load_all(text)
        version = {
            "pipeline_version_id": str(uuid.uuid4()),
            "pipeline_id": pipeline_id,
            "name": name,
            "display_name": name,
            "description": query.get("description", ""),
            "pipeline_spec": {"pipeline_spec": spec, "platform_spec": platform},
        }
        self.versions[version["pipeline_version_id"]] = version
        return 200, version

    def spec_of(self, run):
        """Returns the specification of a run or recurring run, which may be that of an uploaded version."""
        reference = run.get("pipeline_version_reference")
        found = self.versions[reference["pipeline_version_id"]] if reference else run
        return found["pipeline_spec"]

    def _run_of_version_1(self, run_id):
        """Returns what GetRunV1 in run_server.go (kubeflow/pipelines 2.17) adds to a run: its Workflow."""
        if run_id not in self.runs:
            return 404, f"{run_id} not found"
        runtime = {}
        if run_id in self.workflows:
            runtime["workflow_manifest"] = json.dumps(self.workflows[run_id].manifest(run_id))
        return 200, {"run": {"id": run_id}, "pipeline_runtime": runtime}

    def _artifact(self, query):
        """Returns an artifact as getArtifactsHandler does (frontend/server/handlers/artifacts.ts, 2.17)."""
        if not self.has_interface:
            return 404, "404 page not found"
        run_id, step, _, name = query["key"].split("/")[-4:]
        # qualifyExecutorLogsURI in launcher_v2.go (2.17) adds the number of the attempt.
        number = name.removeprefix("executor-logs-")
        pods = self.workflows[run_id].pods.get(step, [])
        if query["source"] != "minio" or not number.isdigit() or int(number) >= len(pods):
            return 500, "Failed to get object in bucket: The specified key does not exist."
        return 200, pods[int(number)].log

    def _create(self, collection, resources, resource):
        key = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}[
            collection
        ]
        # CreatedAtInSec (backend/src/apiserver/model, 2.17): a time has whole seconds.
        now = self.clock().replace(microsecond=0).isoformat()
        resource = {**resource, key: str(uuid.uuid4()), "created_at": now}
        if collection == "experiments":
            if not self.multi_user:
                # ReplaceNamespace in resource_manager.go (2.17).
                resource["namespace"] = ""
            # uniqueIndex in backend/src/apiserver/model/experiment.go (2.17).
            unique = (resource["display_name"], resource.get("namespace", ""))
            same = [(found["display_name"], found.get("namespace", "")) for found in resources.values()]
            if unique in same:
                return 409, f"the experiment {resource['display_name']} already exists"
        else:
            # GetNamespaceFromExperimentId in resource_manager.go (2.17).
            if resource.get("experiment_id") not in self.experiments:
                return 404, f"Experiment {resource.get('experiment_id')} not found"
            try:
                self._check(resource)
            except json_format.ParseError as error:
                return 400, str(error)
            if collection == "recurringruns":
                # toModelJob in backend/src/apiserver/server/api_converter.go (2.17).
                if not 1 <= int(resource.get("max_concurrency", 0)) <= 10:
                    return 400, "Max concurrency of a recurring run must be at least 1 and at most 10"
                check_cron(resource["trigger"]["cron_schedule"]["cron"])
        if collection == "recurringruns":
            resource["status"] = "ENABLED" if resource.get("mode") == "ENABLE" else "DISABLED"
        resources[resource[key]] = resource
        if collection == "runs":
            resource["state"] = self.final_state or "PENDING"
            if self.run_commands:
                threading.Thread(target=self._run, args=(resource["run_id"],), daemon=True).start()
        return 200, resource

    def _list(self, collection, resources, query):
        experiment = query.get("experiment_id")
        if experiment and experiment not in self.experiments:
            return 404, f"Experiment {experiment} not found"
        found = list(resources.values())
        if experiment:
            found = [run for run in found if run.get("experiment_id") == experiment]
        if self.multi_user and collection in ("experiments", "pipelines"):
            # FilterOnNamespace in list.go (2.17).
            found = [each for each in found if each.get("namespace") == query.get("namespace")]
        name = {"recurringruns": "recurringRuns"}.get(collection, collection)
        return 200, page_of(collection, name, found, query)

    def _check(self, run):
        spec = self.spec_of(run)
        json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec["platform_spec"], pipeline_spec_pb2.PlatformSpec())
        declared = spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        check_inputs(declared, run["runtime_config"].get("parameters", {}))

    def pods(self, run_id):
        """Returns what KFP's driver requests from Kubernetes for each step: image, resources, nodes."""
        run = self.runs[run_id]
        spec, platform = (self.spec_of(run)[name] for name in ("pipeline_spec", "platform_spec"))
        declared = spec["root"]["inputDefinitions"]["parameters"]
        given = run["runtime_config"].get("parameters", {})
        values = {
            name: given.get(name, parameter.get("defaultValue")) for name, parameter in declared.items()
        }

        def value_of(reference):
            if "componentInputParameter" in reference:
                return values[reference["componentInputParameter"]]
            output = reference["taskOutputParameter"]
            return f"{output['producerTask']}.{output['outputParameterKey']}"

        pods = {}
        for name, task in spec["root"]["dag"]["tasks"].items():
            if f"exec-{name}" not in spec["deploymentSpec"]["executors"]:
                # A condition: a subgraph, whose steps have the same pods as the others.
                continue
            inputs = task["inputs"].get("parameters", {})

            def resolved(text, inputs=inputs):
                match = re.fullmatch(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}", text)
                return value_of(inputs[match.group(1)]) if match else text

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
                count = resolved(str(accelerator["resourceCount"]))
                pod["accelerator"] = {kind: int(count) if count.isdigit() else count}
            if "nodeSelector" in kubernetes:
                pod["node_selector"] = value_of(kubernetes["nodeSelector"]["nodeSelectorJson"])
            if "tolerations" in kubernetes:
                [toleration] = kubernetes["tolerations"]
                pod["tolerations"] = value_of(toleration["tolerationJson"])
            pods[name] = pod
        return pods

    def _end(self, run_id, state):
        run = self.runs[run_id]
        if run["state"] not in DONE:
            run.update(state=state, finished_at=datetime.now(UTC).isoformat())

    def _run(self, run_id):
        with self.lock:
            run = self.runs.get(run_id, {"state": "deleted"})
            if run["state"] not in ("PENDING", "RUNNING"):
                return
            spec = self.spec_of(run)
            text = yaml.safe_dump_all([spec["pipeline_spec"], spec["platform_spec"]])
            parameters = run["runtime_config"].get("parameters", {})
            run["state"] = "RUNNING"
            process = start_pipeline(self.folder / run_id, text, parameters, **{LOG_FORMAT_VARIABLE: ""})
            self.processes[run_id] = process
            workflow = self.workflows[run_id] = WorkflowState()
        pod = Pod()
        for line in process.stdout:
            # kfp.local indents the output of a step.
            line = line.removeprefix("    ")
            with self.lock:
                started = re.fullmatch(r".{14} (\w+): started\n", line)
                if started:
                    step = STEP_OF.get(started.group(1), started.group(1))
                    [pod] = workflow.pods.setdefault(step, [Pod()])
                    pod.phase = "Running"
                pod.log += line
                if re.fullmatch(r".{14} \w+: done in .*\n", line):
                    pod.phase = "Succeeded"
        status = process.wait()
        with self.lock:
            if pod.phase == "Running":
                # The launcher turns every exit code into 1.
                pod.phase, pod.message = "Failed", "Error (exit code 1)"
            workflow.finished = True
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
        if ("pods/log" in self.forbidden and parts[-1] == "log") or "pods" in self.forbidden:
            return 403, f'User "team" cannot list resource "pods" in the namespace "{parts[4]}"'
        if parts[5:] == ["pods"]:
            [run_id] = re.findall("pipeline/runid=(.+)", query["labelSelector"])
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": self._pods(run_id), "metadata": {}}
        if parts[5:] == ["events"]:
            [name] = re.findall("involvedObject.name=([^,]+),type=Warning", query["fieldSelector"])
            return 200, {"kind": "EventList", "apiVersion": "v1", "items": self._events(name), "metadata": {}}
        run_id, step, number = _parts_of(parts[6])
        pod = self.workflows[run_id].pods[step][int(number)]
        if self.log_responses:
            status, text = self.log_responses.pop(0)
            if not self.log_responses:
                pod.log, pod.phase = text, "Succeeded"
                self.workflows[run_id].finished = True
                self.runs[run_id]["state"] = "SUCCEEDED"
            return status, text
        if pod.phase == "Pending":
            return 400, 'container "main" in pod is waiting to start: ContainerCreating'
        return 200, pod.log

    def _pods(self, run_id):
        if not self.pods_exist or run_id not in self.workflows:
            return []
        workflow = self.workflows[run_id]
        items = []
        for step, pods in workflow.pods.items():
            for number, pod in enumerate(pods):
                node = node_id(f"{workflow.path(step)}(0).executor({number})")
                metadata = {
                    # GeneratePodName in argo-workflows 4.0.5 (workflow/util/pod_name.go); the template's name
                    # identifies the pod here.
                    "name": f"{WORKFLOW}-{run_id}--{step}--{number}-{node.rpartition('-')[2]}",
                    "creationTimestamp": "2026-11-23T00:00:00Z",
                    "annotations": {"workflows.argoproj.io/node-id": node},
                }
                # A pod that waits when the run's deadline passes is deleted (exec_control.go).
                if not (workflow.finished and workflow.deadline and not pod.log):
                    status = {"phase": "Pending" if pod.phase == "Pending" else "Running"}
                    items.append({"metadata": metadata, "status": status})
        return items

    def _events(self, name):
        """The pod's events: not in the order of time, as from etcd, whose keys end in a digest."""
        run_id, step, number = _parts_of(name)
        warnings = self.workflows[run_id].pods[step][int(number)].warnings
        return [
            {
                "metadata": {"name": f"{name}.{position}"},
                "involvedObject": {"name": name},
                "type": "Warning",
                "message": message,
                "lastTimestamp": f"2026-11-23T00:00:{position:02d}Z",
            }
            for position, message in reversed(list(enumerate(warnings)))
        ]

    def wait_for(self, run_id, seconds=60):
        """Waits until a run has ended."""
        wait_until(lambda: self.runs[run_id]["state"] in DONE, seconds)


def _parts_of(pod):
    """Returns the run's id, the step and the attempt of a pod."""
    return pod.removeprefix(f"{WORKFLOW}-").rpartition("-")[0].rsplit("--", 2)


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
    """Makes the server the cluster of the default kubeconfig file, also in processes that start here."""
    path = kubeconfig(folder, server)
    # The client reads the variable when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)
    monkeypatch.setenv("KUBECONFIG", str(path))


@contextmanager
def start_kubeflow_server(folder, server_class=KubeflowServer):
    """Yields a server; the processes that it has started end with it."""
    server = server_class(Path(folder))

    def respond(method, path, query, body):
        status, content = server.respond(method, path, query, body)
        return status, content if status < 300 else {"message": content, "code": status}

    with serve_json(respond, server.require_login) as server.address, ending_processes(server):
        yield server
