"""Logs to an MLflow tracking server, which MLflow's own environment variables name.

Kubeflow Pipelines sets them in each step's container if its MLflow integration is on: it creates a run for
the pipeline and, nested in it, one for each step (``MLFLOW_RUN_ID``), and ends them itself. Only the few
calls of the REST API that are needed are made, so that no step depends on MLflow. Logging never fails a
step: what goes wrong is one warning.
"""

import base64
import http.client
import json
import math
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import EXIT_CODE_INTERRUPTED, PipelineError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.urls import has_user_info, redact_urls
from imgpipe.components.platforms.responses import json_object

RUN_VARIABLE = "MLFLOW_RUN_ID"
FAILED_EVENT = "mlflow_failed"
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_API = "/api/2.0/mlflow/"
_PARENT_TAG = "mlflow.parentRunId"
# Of a pod; MLflow's authentication `kubernetes` sends it.
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
# A whole call, including the search of the address, which has no limit of its own.
_SECONDS_PER_CALL = 10.0
# After a failed call, so that a server that does not respond does not slow a training run down.
_SECONDS_BETWEEN_ATTEMPTS = 60.0
# The server's limits for one call; of a value, that of older servers.
_MAX_METRICS, _MAX_PARAMETERS, _MAX_VALUE_CHARACTERS = 1000, 100, 500
_MAX_NAME_CHARACTERS = 250
_INVALID_IN_NAMES = re.compile(r"[^\w\-. :/]")
_MAX_RESPONSE_BYTES = 1_000_000


class _CallError(Exception):
    """A call failed; the text says why, without the address."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


def log_warning(text: str) -> None:
    """Writes a warning to the log of a step."""
    log_event(FAILED_EVENT, f"MLflow: {text}", severity="WARNING")


@dataclass
class MlflowRun:
    """A run on a tracking server.

    Attributes:
        run_id: Its ID.
        warn: Called with a text when a call has failed, once.
    """

    run_id: str
    warn: Callable[[str], None] = log_warning
    _pending: list[dict[str, Any]] = field(default_factory=list)
    _next_attempt: float = 0.0
    _has_warned: bool = False

    def add_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Adds numbers, to be sent by ``flush``; those that are not finite are left out."""
        now = int(time.time() * 1000)
        self._pending += [
            {"key": _valid_name(name), "value": float(value), "timestamp": now, "step": step}
            for name, value in metrics.items()
            if math.isfinite(value)
        ]

    def flush(self, *, is_last: bool = False) -> None:
        """Sends the metrics; after a failure they are kept, and sent by a later call.

        Args:
            is_last: Sends them even if the server has just failed.
        """
        while self._pending and (is_last or time.monotonic() >= self._next_attempt):
            part = self._pending[:_MAX_METRICS]
            if not self._log({"metrics": part}):
                return
            del self._pending[: len(part)]

    def log_parameters(self, parameters: Mapping[str, Any], prefix: str) -> None:
        """Logs arguments as ``PREFIX/NAME``; Kubeflow Pipelines itself uses the names of a step's inputs."""
        items = [
            {
                "key": _valid_name(f"{prefix}/{name}"),
                "value": str(value)[:_MAX_VALUE_CHARACTERS],
            }
            for name, value in parameters.items()
        ]
        for begin in range(0, len(items), _MAX_PARAMETERS):
            if not self._log({"params": items[begin : begin + _MAX_PARAMETERS]}):
                return

    def end(self, status: str) -> None:
        """Ends a run that this process has created: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.flush(is_last=True)
        end_time = int(time.time() * 1000)
        self._try("runs/update", {"run_id": self.run_id, "status": status, "end_time": end_time})

    def _log(self, content: Mapping[str, Any]) -> bool:
        return self._try("runs/log-batch", {"run_id": self.run_id, **content})

    def _try(self, call: str, content: Mapping[str, Any]) -> bool:
        """Returns whether a call succeeded; the first failure is a warning."""
        try:
            _call(call, content)
        except _CallError as error:
            self._next_attempt = time.monotonic() + _SECONDS_BETWEEN_ATTEMPTS
            if not self._has_warned:
                self._has_warned = True
                self.warn(f"the run {self.run_id} is incomplete: {redact_urls(str(error))}")
            return False
        return True


def current_run() -> MlflowRun | None:
    """Returns the run that the environment names; None if it names no server or no run."""
    run_id = os.environ.get(RUN_VARIABLE, "").strip()
    return MlflowRun(run_id) if run_id and _is_server(_tracking_uri()) else None


@contextmanager
def tracked_run(
    name: str,
    *,
    tags: Mapping[str, str] | None = None,
    nested: bool = False,
    warn: Callable[[str], None] = log_warning,
) -> Iterator[MlflowRun | None]:
    """Yields the run that the environment names, or creates one for the block and names it there.

    A run that was created ends with the block. Yields None, and does nothing else, if the environment names
    no server, or the run cannot be created. The experiment is ``MLFLOW_EXPERIMENT_ID``, or
    ``MLFLOW_EXPERIMENT_NAME``, which is created if it is missing.

    Args:
        name: The name of a new run; ``MLFLOW_RUN_NAME`` overrides it, except in a nested run.
        tags: Tags of a new run.
        nested: Creates a run within the one that the environment names.
        warn: Called with a text if the run cannot be created, or is incomplete.
    """
    outer = current_run()
    if outer is not None and not nested:
        yield outer
        return
    run = None
    if _tracking_uri() and (outer is not None or not nested):
        run = _create_run(name, outer.run_id if outer else "", tags or {}, warn)
    if run is None:
        yield None
        return
    os.environ[RUN_VARIABLE] = run.run_id
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except PipelineError as error:
        status = "KILLED" if error.exit_code == EXIT_CODE_INTERRUPTED else status
        raise
    finally:
        if outer is None:
            del os.environ[RUN_VARIABLE]
        else:
            os.environ[RUN_VARIABLE] = outer.run_id
        run.end(status)


def _create_run(
    name: str, parent: str, tags: Mapping[str, str], warn: Callable[[str], None]
) -> MlflowRun | None:
    if not _is_server(_tracking_uri()):
        warn(f"{_URI_VARIABLE} is ignored: it is not the address of a server (http:// or https://)")
        return None
    all_tags = {**tags, **({_PARENT_TAG: parent} if parent else {})}
    try:
        content = {
            "experiment_id": _experiment_id(),
            "run_name": name if parent else os.environ.get("MLFLOW_RUN_NAME") or name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": value} for key, value in all_tags.items()],
        }
        return MlflowRun(str(_call("runs/create", content)["run"]["info"]["run_id"]), warn)
    except _CallError as error:
        warn(f"nothing is logged: {redact_urls(str(error))}")
    except (KeyError, TypeError):
        warn("nothing is logged: the server's response is not MLflow's")
    return None


def _experiment_id() -> str:
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name:
        # MLflow's experiment `Default`.
        return "0"
    try:
        query = urllib.parse.urlencode({"experiment_name": name})
        return str(_call(f"experiments/get-by-name?{query}")["experiment"]["experiment_id"])
    except _CallError as error:
        if error.status != 404:
            raise
    return str(_call("experiments/create", {"name": name})["experiment_id"])


def _call(call: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes a call and returns its response.

    Raises:
        _CallError: if it fails or takes too long.
    """
    result: list[dict[str, Any] | _CallError] = []

    def run() -> None:
        try:
            result.append(_request(call, content))
        except _CallError as error:
            result.append(error)

    # In a thread: neither the search of an address nor a slow response as a whole has a time limit.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_SECONDS_PER_CALL)
    if not result:
        raise _CallError(f"no response within {_SECONDS_PER_CALL:.0f} seconds")
    if isinstance(result[0], _CallError):
        raise result[0]
    return result[0]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows none: it leads to a login page, and would send the token to another server."""


def _request(call: str, content: Mapping[str, Any] | None) -> dict[str, Any]:
    uri = urllib.parse.urlsplit(_tracking_uri())
    host = uri.netloc.rpartition("@")[2]
    url = urllib.parse.urlunsplit((uri.scheme, host, uri.path.rstrip("/"), "", "")) + _API + call
    body = None if content is None else json.dumps(content).encode()
    try:
        request = urllib.request.Request(url, body, _headers(uri))  # noqa: S310 - the scheme was checked
        handlers = [urllib.request.HTTPSHandler(context=_ssl_context())] if uri.scheme == "https" else []
        opener = urllib.request.build_opener(*handlers, _NoRedirect)
        with opener.open(request, timeout=_SECONDS_PER_CALL) as response:
            found = json_object(response.read(_MAX_RESPONSE_BYTES))
    except urllib.error.HTTPError as error:
        raise _CallError(f"status {error.code} {_reason(error)}", error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _CallError(str(cause) or type(error).__name__) from None
    if found is None:
        raise _CallError("the response is not JSON")
    return found


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        answer = json_object(error.read(_MAX_RESPONSE_BYTES)) or {}
    except (OSError, http.client.HTTPException):
        answer = {}
    return str(answer.get("message") or error.reason)[:_MAX_VALUE_CHARACTERS]


def _headers(uri: urllib.parse.SplitResult) -> dict[str, str]:
    """Returns the credentials and the workspace, as MLflow's client sends them."""
    headers = {"Content-Type": "application/json"}
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if has_user_info(uri.geturl()):
        user, password = (urllib.parse.unquote(part or "") for part in (uri.username, uri.password))
    authentication = os.environ.get("MLFLOW_TRACKING_AUTH", "")
    if authentication.startswith("kubernetes") and not token:
        # Read again for every call: Kubernetes renews it.
        with suppress(OSError):
            token = _SERVICE_ACCOUNT_TOKEN.read_text().strip()
    if user and password:
        headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    if workspace := os.environ.get("MLFLOW_WORKSPACE"):
        headers["X-MLflow-Workspace"] = workspace
    return headers


def _ssl_context() -> ssl.SSLContext:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return ssl._create_unverified_context()  # noqa: S323 - the user has asked for it
    return ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)


def _valid_name(name: str) -> str:
    return _INVALID_IN_NAMES.sub("_", name)[:_MAX_NAME_CHARACTERS]


def _tracking_uri() -> str:
    return os.environ.get(_URI_VARIABLE, "").strip()


def _is_server(uri: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
