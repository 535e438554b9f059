"""Vertex AI and Cloud Logging on loopback: real message types in and out, jobs run as processes.

What a client sends is parsed with the client library's own messages, so that an unknown or misplaced field is
an error here as it is there. A job's container command is started as a process of this machine, its output is
what Cloud Logging returns, its exit status decides the job's state.
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
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from google.cloud import aiplatform_v1 as vertex
from google.protobuf import json_format

from tests.servers.google import GoogleServer

STATES = vertex.JobState
# Collection: its message, and the enumeration of its states.
COLLECTIONS = {
    "customJobs": vertex.CustomJob,
    "hyperparameterTuningJobs": vertex.HyperparameterTuningJob,
    "pipelineJobs": vertex.PipelineJob,
    "schedules": vertex.Schedule,
}
DONE = {"SUCCEEDED", "FAILED", "CANCELLED"}


class VertexServer:
    """What the server holds; ``start_vertex_server`` makes one.

    Attributes:
        resources: By name, as messages.
        requests: (method, path, query, body) of everything that was sent.
        logs: Lines of output by a job's number.
        refusals: Answers to give instead, first come first served: (status, message).
        run_commands: Whether jobs are really run.
        final_state: (state, error) in which every job is made, instead.
        lose_answers: So many creations succeed, but the client hears of an error.
        models: The model registry and the endpoints, if there are some.
        processes: Of the jobs that run, by name.
    """

    def __init__(self, folder):
        self.folder = folder
        self.resources = {}
        self.requests = []
        self.logs = {}
        self.refusals = []
        self.run_commands = False
        self.final_state = None
        self.models = None
        # The other interfaces of Google Cloud, which the checks ask.
        self.google = GoogleServer()
        self.lose_answers = 0
        self.processes = {}
        self.lock = threading.RLock()
        self.address = ""
        self._number = 4_000_000_000_000_000_000

    def created(self, collection):
        """Returns the resources of a collection, in the order of their making."""
        return [one for name, one in self.resources.items() if name.split("/")[-2] == collection]

    # What follows answers requests.

    def answer(self, method, path, query, body):
        with self.lock:
            self.requests.append((method, path, query, body))
            if self.refusals:
                return self.refusals.pop(0)
            if "/locations/" not in path and path != "/v2/entries:list":
                return self.google.answer(path, query, json.loads(body) if body else {})
            if path == "/v2/entries:list":
                return 200, self._entries(json.loads(body))
            path = path.removeprefix("/v1/")
            if self.models is not None and re.match(
                r"projects/[^/]+/locations/[^/]+/(models|endpoints)\b", path
            ):
                status, content = self.models.handle(method, path, query, json.loads(body) if body else None)
                return status, content if status == 200 else content["error"]["message"]
            verb = ""
            if ":" in path.split("/")[-1]:
                path, verb = path.rsplit(":", 1)
            collection = path.split("/")[-1]
            if collection in COLLECTIONS and method == "POST":
                return self._create(path, collection, query, body)
            if collection in COLLECTIONS and method == "GET":
                return self._list(path, collection, query)
            if path not in self.resources:
                return 404, f"{path} is not found"
            resource = self.resources[path]
            if verb == "cancel":
                self._cancel(path)
                return 200, {}
            if verb in ("pause", "resume"):
                states = vertex.Schedule.State
                resource.state = states.PAUSED if verb == "pause" else states.ACTIVE
                return 200, {}
            if method == "DELETE":
                del self.resources[path]
                return 200, {
                    "name": f"{path}/operations/1",
                    "done": True,
                    "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
                }
            return 200, self._json(resource)

    def _create(self, parent, collection, query, body):
        message = COLLECTIONS[collection]
        try:
            # Enumerations arrive as numbers; json_format takes both.
            parsed = json_format.Parse(body, message.pb(message()))
        except json_format.ParseError as error:
            return 400, str(error)
        resource = message.wrap(parsed)
        self._number += 1
        identifier = query.get("pipelineJobId") or str(self._number)
        resource.name = f"{parent}/{identifier}"
        if resource.name in self.resources:
            return 409, f"{resource.name} exists already"
        resource.create_time = datetime.now(UTC)
        if collection == "schedules":
            resource.state = vertex.Schedule.State.ACTIVE
        elif collection == "pipelineJobs":
            resource.state = vertex.PipelineState.PIPELINE_STATE_PENDING
        else:
            resource.state = STATES.JOB_STATE_PENDING
        self.resources[resource.name] = resource
        if self.final_state is not None and collection == "pipelineJobs":
            resource.state = vertex.PipelineState[self.final_state[0].name.replace("JOB", "PIPELINE", 1)]
        elif self.final_state is not None and collection != "schedules":
            resource.state, resource.error = self.final_state
        elif self.run_commands and collection == "customJobs":
            threading.Thread(target=self._run_job, args=(resource.name,), daemon=True).start()
        elif self.run_commands and collection == "pipelineJobs":
            threading.Thread(target=self._run_pipeline, args=(resource.name,), daemon=True).start()
        if self.lose_answers:
            self.lose_answers -= 1
            return 503, "the answer was lost on the way"
        return 200, self._json(resource)

    def _list(self, parent, collection, query):
        found = [one for one in self.created(collection) if one.name.startswith(f"{parent}/")]
        for key, value in re.findall(r'labels\.([\w-]+)\s*=\s*"?([\w-]+)"?', query.get("filter", "")):
            found = [one for one in found if one.labels.get(key) == value]
        for value in re.findall(r'display_name\s*=\s*"([^"]*)"', query.get("filter", "")):
            found = [one for one in found if one.display_name == value]
        return 200, {collection: [self._json(one) for one in reversed(found)]}

    def _json(self, resource):
        return json.loads(type(resource).to_json(resource, use_integers_for_enums=True))

    def _entries(self, request):
        of_jobs = request["filter"].partition(" AND ")[0]
        numbers = re.findall(r'"([^"]+)"', of_jobs)
        assert numbers
        assert set(re.findall(r"resource\.labels\.(\w+)", of_jobs)) <= {"job_id", "pipeline_job_id"}
        lines = sorted(
            (stamp, f"{number}-{place}", text)
            for number in numbers
            for place, (stamp, text) in enumerate(self.logs.get(number, []))
        )
        since = re.findall(r'timestamp\s*>=\s*"([^"]+)"', request["filter"])
        entries = [
            {"insertId": identifier, "timestamp": stamp, "textPayload": text}
            for stamp, identifier, text in lines
            if not since or stamp >= since[0]
        ]
        return {"entries": entries}

    def _cancel(self, name):
        process = self.processes.get(name)
        if process:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        resource = self.resources[name]
        if resource.state.name.split("_")[-1] not in DONE:
            resource.state = type(resource.state)[re.sub("STATE_.*", "STATE_CANCELLED", resource.state.name)]

    def _run_job(self, name):
        with self.lock:
            job = self.resources[name]
            container = job.job_spec.worker_pool_specs[0].container_spec
            words = [*container.command, *container.args]
        # gs:// and /gcs/ are folders of this machine.
        words = [self.local(word) for word in words]
        if words[0] in ("python", "python3"):
            words[0] = sys.executable
        status = self._run(name, words)
        with self.lock:
            if job.state == STATES.JOB_STATE_CANCELLED:
                return
            job.end_time = datetime.now(UTC)
            if status == 0:
                job.state = STATES.JOB_STATE_SUCCEEDED
                return
            job.state = STATES.JOB_STATE_FAILED
            job.error = {
                "code": 3,
                "message": f"The replica workerpool0-0 exited with a non-zero status of {status}. To find "
                "out more about why your job exited please check the logs.",
            }

    def local(self, text):
        return text.replace("gs://", f"{self.folder}/").replace("/gcs/", f"{self.folder}/")

    def _run(self, name, words, **environment):
        number = name.split("/")[-1]
        with self.lock:
            resource = self.resources[name]
            resource.state = type(resource.state)[re.sub("STATE_.*", "STATE_RUNNING", resource.state.name)]
            resource.start_time = datetime.now(UTC)
            process = self.processes[name] = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )
        lines = self.logs.setdefault(number, [])
        for line in process.stdout:
            lines.append((datetime.now(UTC).isoformat(), line.rstrip("\n")))
        return process.wait()

    def _run_pipeline(self, name):
        """Runs the pipeline's steps with kfp.local; what Vertex AI fills in is filled in here."""
        with self.lock:
            job = self.resources[name]
            message = json_format.MessageToDict(vertex.PipelineJob.pb(job))
        _, project, _, region, _, number = name.split("/")
        text = json.dumps(message["pipelineSpec"])
        text = text.replace("{{$.pipeline_google_cloud_project_id}}", project)
        text = text.replace("{{$.pipeline_google_cloud_location}}", region)
        text = text.replace("{{$.pipeline_job_resource_name}}", name)
        runtime = message["runtimeConfig"]
        folder = Path(self.local(runtime["gcsOutputDirectory"])) / number
        folder.mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(text)
        declared = message["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
        parameters = {
            # What is deployed goes to a bucket: the step takes no other place.
            key: self.local(value)
            if isinstance(value, str) and key != "deploy_dir"
            # A protocol buffer has one kind of number.
            else int(value)
            if declared[key]["parameterType"] == "NUMBER_INTEGER"
            else value
            for key, value in runtime.get("parameterValues", {}).items()
        }
        request = {
            "pipeline": str(folder / "pipeline.yaml"),
            "parameters": parameters,
            "artifacts": str(folder / "artifacts"),
        }
        (folder / "request.json").write_text(json.dumps(request))
        command = '"$0" -m imgpipe.pipelines.targets.local < "$1"'
        status = self._run(
            name, ["/bin/sh", "-c", f"exec {command}", sys.executable, str(folder / "request.json")]
        )
        with self.lock:
            states = vertex.PipelineState
            if job.state == states.PIPELINE_STATE_CANCELLED:
                return
            job.end_time = datetime.now(UTC)
            job.state = states.PIPELINE_STATE_SUCCEEDED if status == 0 else states.PIPELINE_STATE_FAILED

    def wait_for(self, name, seconds=60):
        """Waits until a job has ended."""
        deadline = time.monotonic() + seconds
        while self.resources[name].state.name.split("_")[-1] not in DONE:
            assert time.monotonic() < deadline, f"{name} is still {self.resources[name].state.name}"
            time.sleep(0.02)


@contextmanager
def start_vertex_server(folder):
    """Yields a server; whatever it has started is ended with it."""
    held = VertexServer(Path(folder))

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def respond(self):
            split = urllib.parse.urlsplit(self.path)
            query = {key: values[0] for key, values in urllib.parse.parse_qs(split.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = held.answer(self.command, urllib.parse.unquote(split.path), query, body)
            if status != 200:
                answer = {"error": {"code": status, "message": answer}}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PATCH = do_HEAD = respond  # noqa: N815 - the base class wants these names

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield held
    finally:
        for process in held.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        server.shutdown()
        server.server_close()
