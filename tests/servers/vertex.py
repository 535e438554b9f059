"""Vertex AI and Cloud Logging on loopback: real message types, jobs run as processes.

Requests are parsed with the client library's messages, so that unknown and misplaced fields are errors, as on
Vertex AI. A job's container command runs as a process; its output is the job's log, and its exit status
determines the job's state.
"""

import json
import re
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from google.cloud import aiplatform_v1 as vertex
from google.protobuf import json_format

from tests.servers.google import GoogleServer
from tests.servers.http_server import serve_json
from tests.servers.processes import end_process, ending_processes, start_pipeline, start_process
from tests.waiting import wait_until

STATES = vertex.JobState
# Messages by collection.
COLLECTIONS = {
    "customJobs": vertex.CustomJob,
    "hyperparameterTuningJobs": vertex.HyperparameterTuningJob,
    "pipelineJobs": vertex.PipelineJob,
    "schedules": vertex.Schedule,
}
DONE = {"SUCCEEDED", "FAILED", "CANCELLED"}


class VertexServer:
    """The server's resources; ``start_vertex_server`` starts one.

    Attributes:
        resources: Messages by resource name.
        requests: (method, path, query, body) of all requests.
        logs: Lines of output by job number.
        forced_responses: (status, message) of the next responses.
        run_commands: Whether jobs are run.
        final_state: (state, error) of every new job, unless None.
        lost_responses: Number of creations that will succeed, but return an error.
        clock: Returns the time of a creation.
        models: The model registry and the endpoints, if any.
        processes: Processes of the running jobs, by name.
    """

    def __init__(self, folder):
        self.folder = folder
        self.resources = {}
        self.requests = []
        self.logs = {}
        self.forced_responses = []
        self.run_commands = False
        self.final_state = None
        self.models = None
        # The other services that the checks call.
        self.google = GoogleServer()
        self.lost_responses = 0
        self.processes = {}
        self.clock = lambda: datetime.now(UTC)
        self.lock = threading.RLock()
        self.address = ""
        self._number = 4_000_000_000_000_000_000

    def created(self, collection):
        """Returns the resources of a collection in order of creation."""
        return [found for name, found in self.resources.items() if name.split("/")[-2] == collection]

    def respond(self, method, path, query, body):
        status, content = self._respond(method, path, query, body)
        return status, content if status == 200 else {"error": {"code": status, "message": content}}

    def _respond(self, method, path, query, body):
        with self.lock:
            self.requests.append((method, path, query, body))
            if self.forced_responses:
                return self.forced_responses.pop(0)
            if "/locations/" not in path and path != "/v2/entries:list":
                return self.google.handle(method, path, query, json.loads(body) if body else None)
            if path == "/v2/entries:list":
                return 200, self._entries(json.loads(body))
            path = path.removeprefix("/v1/")
            if self.models is not None and re.match(
                r"(/dedicated/\d+/v1/|/ui/)?projects/[^/]+/locations/[^/]+/(models|endpoints)\b", path
            ):
                self.models.address = self.address
                status, content = self.models.handle(method, path, query, json.loads(body) if body else None)
                return status, content if status == 200 else content["error"]["message"]
            verb = ""
            if ":" in path.split("/")[-1]:
                path, verb = path.rsplit(":", 1)
            collection = path.split("/")[-1]
            if collection in COLLECTIONS:
                if method == "POST":
                    return self._create(path, collection, query, body)
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
            # Enumerations arrive as numbers; json_format accepts both.
            parsed = json_format.Parse(body, message.pb(message()))
        except json_format.ParseError as error:
            return 400, str(error)
        resource = message.wrap(parsed)
        self._number += 1
        identifier = query.get("pipelineJobId") or str(self._number)
        resource.name = f"{parent}/{identifier}"
        if resource.name in self.resources:
            return 409, f"{resource.name} already exists"
        resource.create_time = self.clock()
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
        if self.lost_responses:
            self.lost_responses -= 1
            return 503, "the response was lost"
        return 200, self._json(resource)

    def _list(self, parent, collection, query):
        found = [job for job in self.created(collection) if job.name.startswith(f"{parent}/")]
        for key, value in re.findall(r'labels\.([\w-]+)\s*=\s*"?([\w-]+)"?', query.get("filter", "")):
            found = [job for job in found if job.labels.get(key) == value]
        for value in re.findall(r'display_name\s*=\s*"([^"]*)"', query.get("filter", "")):
            found = [job for job in found if job.display_name == value]
        return 200, {collection: [self._json(job) for job in reversed(found)]}

    def _json(self, resource):
        return json.loads(type(resource).to_json(resource, use_integers_for_enums=True))

    def _entries(self, request):
        job_filter = request["filter"].partition(" AND ")[0]
        numbers = re.findall(r'"([^"]+)"', job_filter)
        assert numbers
        assert set(re.findall(r"resource\.labels\.(\w+)", job_filter)) <= {"job_id", "pipeline_job_id"}
        lines = sorted(
            (timestamp, f"{number}-{index}", text)
            for number in numbers
            for index, (timestamp, text) in enumerate(self.logs.get(number, []))
        )
        since = re.findall(r'timestamp\s*>=\s*"([^"]+)"', request["filter"])
        entries = [
            {"insertId": insert_id, "timestamp": timestamp, "textPayload": text}
            for timestamp, insert_id, text in lines
            if not since or timestamp >= since[0]
        ]
        return {"entries": entries}

    def _cancel(self, name):
        if process := self.processes.get(name):
            end_process(process)
        resource = self.resources[name]
        if resource.state.name.split("_")[-1] not in DONE:
            resource.state = type(resource.state)[re.sub("STATE_.*", "STATE_CANCELLED", resource.state.name)]

    def _run_job(self, name):
        with self.lock:
            job = self.resources[name]
            container = job.job_spec.worker_pool_specs[0].container_spec
        command = self.local_command(*container.command, *container.args)
        status = self._run(name, lambda: start_process(command))
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

    def local_command(self, *command):
        """Returns a container's command for this machine."""
        executable, *args = map(self.local, command)
        return [sys.executable if executable in ("python", "python3") else executable, *args]

    def local(self, text):
        """Replaces gs:// and /gcs/ with the server's folder."""
        return text.replace("gs://", f"{self.folder}/").replace("/gcs/", f"{self.folder}/")

    def _run(self, name, start):
        """Returns the exit status of a process; None if the resource was cancelled before its start."""
        number = name.split("/")[-1]
        with self.lock:
            resource = self.resources[name]
            if resource.state.name.endswith("CANCELLED"):
                return None
            resource.state = type(resource.state)[re.sub("STATE_.*", "STATE_RUNNING", resource.state.name)]
            resource.start_time = datetime.now(UTC)
            process = self.processes[name] = start()
        lines = self.logs.setdefault(number, [])
        for line in process.stdout:
            lines.append((datetime.now(UTC).isoformat(), line.rstrip("\n")))
        return process.wait()

    def _run_pipeline(self, name):
        """Runs the pipeline's steps with kfp.local, after replacing Vertex AI's placeholders."""
        with self.lock:
            job = self.resources[name]
            message = json_format.MessageToDict(vertex.PipelineJob.pb(job))
        _, project, _, region, _, number = name.split("/")
        # The first step would reject the folders of this machine that replace the buckets here.
        text = json.dumps(message["pipelineSpec"]).replace("target='vertex'", "target='local'")
        text = text.replace("{{$.pipeline_google_cloud_project_id}}", project)
        text = text.replace("{{$.pipeline_google_cloud_location}}", region)
        text = text.replace("{{$.pipeline_job_resource_name}}", name)
        runtime = message["runtimeConfig"]
        folder = Path(self.local(runtime["gcsOutputDirectory"])) / number
        declared = message["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
        parameters = {
            # The deploy step requires a bucket.
            key: self.local(value)
            if isinstance(value, str) and key != "deploy_dir"
            # Protocol buffers have only floating-point numbers.
            else int(value)
            if declared[key]["parameterType"] == "NUMBER_INTEGER"
            else value
            for key, value in runtime.get("parameterValues", {}).items()
        }
        status = self._run(name, lambda: start_pipeline(folder, text, parameters))
        with self.lock:
            states = vertex.PipelineState
            if job.state == states.PIPELINE_STATE_CANCELLED:
                return
            job.end_time = datetime.now(UTC)
            job.state = states.PIPELINE_STATE_SUCCEEDED if status == 0 else states.PIPELINE_STATE_FAILED

    def wait_for(self, name, seconds=60):
        """Waits until a job has ended."""
        wait_until(lambda: self.resources[name].state.name.split("_")[-1] in DONE, seconds)


@contextmanager
def start_vertex_server(folder, server_class=VertexServer):
    """Yields a server; the processes that it has started end with it."""
    vertex_server = server_class(Path(folder))
    with serve_json(vertex_server.respond) as vertex_server.address, ending_processes(vertex_server):
        yield vertex_server
