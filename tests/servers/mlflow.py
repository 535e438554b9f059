"""A stand-in for MLflow's tracking server: the calls that are used, and what they refuse.

Rules: mlflow/mlflow, mlflow/utils/validation.py and mlflow/store/tracking/sqlalchemy_store.py, 3.x.
"""

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.http_server import serve_json

NAME = re.compile(r"[/\w.\- :]*")


@dataclass
class Tracking:
    """What the server has stored.

    Attributes:
        runs: By ID: name, experiment, tags, status, params and metrics.
        experiments: IDs by name.
        headers: The headers of each request.
        failures: Responses that are sent before anything is done, in turn.
    """

    runs: dict = field(default_factory=dict)
    experiments: dict = field(default_factory=lambda: {"Default": "0"})
    headers: list = field(default_factory=list)
    failures: list = field(default_factory=list)

    def metrics(self, run_id, key):
        """Returns the values of a metric by step."""
        metrics = self.runs[run_id]["metrics"]
        return {metric["step"]: metric["value"] for metric in metrics if metric["key"] == key}

    def respond(self, method, path, query, body):
        if self.failures:
            return self.failures.pop(0)
        content = json.loads(body) if body else {}
        call = f"{method} {path.partition('/api/2.0/mlflow/')[2]}"
        if call == "GET experiments/get-by-name":
            found = self.experiments.get(query["experiment_name"])
            return (200, {"experiment": {"experiment_id": found}}) if found else refusal(404, "no experiment")
        if call == "POST experiments/create":
            self.experiments[content["name"]] = number = str(len(self.experiments))
            return 200, {"experiment_id": number}
        if call == "POST runs/create":
            if content["experiment_id"] not in self.experiments.values():
                return refusal(404, "no experiment")
            run_id = f"run{len(self.runs)}"
            tags = {tag["key"]: tag["value"] for tag in content["tags"]}
            self.runs[run_id] = {**content, "tags": tags, "status": "RUNNING", "params": {}, "metrics": []}
            return 200, {"run": {"info": {"run_id": run_id}}}
        run = self.runs.get(content.get("run_id"))
        if run is None:
            return refusal(404, "no run")
        if call == "POST runs/update":
            run.update(status=content["status"], end_time=content["end_time"])
            return 200, {"run_info": {}}
        if call == "POST runs/log-batch":
            return self.log_batch(run, content.get("metrics", []), content.get("params", []))
        return refusal(404, "no such call")

    def log_batch(self, run, metrics, params):
        if len(metrics) > 1000 or len(params) > 100:
            return refusal(400, "too many")
        for entry in (*metrics, *params):
            if not NAME.fullmatch(entry["key"]) or len(entry["key"]) > 250:
                return refusal(400, "invalid name")
        for param in params:
            if len(param["value"]) > 500 or run["params"].get(param["key"], param["value"]) != param["value"]:
                return refusal(400, "Changing param values is not allowed.")
        run["params"] |= {param["key"]: param["value"] for param in params}
        run["metrics"] += metrics
        return 200, {}


def refusal(status, message):
    return status, {"error_code": "INVALID_PARAMETER_VALUE", "message": message}


@contextmanager
def serve_tracking():
    """Yields the server's address and what it stores."""
    tracking = Tracking()

    def record(handler):
        tracking.headers.append(dict(handler.headers))
        return False

    with serve_json(tracking.respond, record) as address:
        yield address, tracking
