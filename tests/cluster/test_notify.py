"""The step notify posts how a run has ended, once, to a webhook inside the cluster."""

import json

import pytest

from tests.cluster.installation import RUN_SECONDS, step_of, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2 * RUN_SECONDS)]

# Prints the body of each request.
_RECEIVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture
def received(installation, job):
    """``received()`` returns what the webhook got; its secret has the job's name with hyphens."""
    name, namespace = job.replace("_", "-"), installation.namespace
    installation.start_pod(name, "data", _RECEIVER, {})
    installation.wait_for_phase(name, "Running")
    address = installation.core.read_namespaced_pod(name, namespace).status.pod_ip
    secret = {"metadata": {"name": name}, "stringData": {"url": f"http://{address}:8080/"}}
    installation.core.create_namespaced_secret(namespace, secret)
    yield lambda: [json.loads(line) for line in installation.pod_log(name).splitlines()]
    installation.core.delete_namespaced_secret(name, namespace)
    installation.core.delete_namespaced_pod(name, namespace)


def submit(installation, job, *arguments):
    options = ("--notify-step", "--input", f"webhook_secret={job.replace('_', '-')}")
    return installation.submit(job, *options, arguments=arguments)


def test_a_run_that_fails_is_reported_once(installation, job, received):
    # No model is that fast: the step publish fails.
    run_id = submit(installation, job, "--max_latency_ms=0.001")
    assert installation.wait_until_ended(job) == "FAILED"
    [report] = wait_for(received, 60, "the webhook is called")
    assert (report["state"], report["run_id"], report["step"]) == ("FAILED", run_id, "publish")
    assert "max_latency_ms" in report["problem"]


def test_a_run_that_is_cancelled_is_reported_once(installation, job, received):
    run_id = submit(installation, job, "--max_steps=100000")

    def is_training():
        running = [pod for pod in installation.pods(run_id) if pod.status.phase == "Running"]
        return any(step_of(pod) == "train" for pod in running)

    wait_for(is_training, RUN_SECONDS, "train runs")
    assert installation.imgpipe("cancel", job).returncode == 0
    assert installation.wait_until_ended(job, 180) == "CANCELLED"
    [report] = wait_for(received, 60, "the webhook is called")
    assert (report["state"], report["run_id"], report["step"]) == ("CANCELLED", run_id, "train")
