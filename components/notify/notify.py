"""Reads how the run has ended from its Workflow and its pods, and posts it to the webhook."""

from collections.abc import Mapping

from kubernetes import client

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.common.log import FAILED as FAILED_MARK
from imgpipe.components.common.log import log_result, messages
from imgpipe.components.common.webhook import (
    CANCELLED,
    FAILED,
    STOP_REPORTED,
    SUCCEEDED,
    UNKNOWN,
    report_end,
)
from imgpipe.components.platforms.kubeflow.workflow import CANCELLED as STOPPED_BY_USER
from imgpipe.components.platforms.kubeflow.workflow import FAILED as FAILED_POD
from imgpipe.components.platforms.kubeflow.workflow import Attempt, last_attempts, stop_reason
from imgpipe.components.platforms.kubernetes.client import Cluster, connect
from imgpipe.components.platforms.kubernetes.pods import last_warning, read_log
from imgpipe.components.platforms.kubernetes.workflow import read_own_workflow
from imgpipe.components.platforms.polling import retry

STEP = "notify"
_LOOK = "see `imgpipe describe`, or the run in Kubeflow's web interface"
_ERROR_FIELDS = {"problem": "problem", "what to do": "remedy"}


def report_run() -> None:
    """Posts the end of the run; a Workflow that cannot be read is the state UNKNOWN, with the reason."""
    try:
        cluster = connect("read the run from")
        workflow = retry(lambda: read_own_workflow(cluster))
    except PipelineError as error:
        _report(UNKNOWN, "", error.problem, error.remedy)
        return
    if workflow is None:
        _report(UNKNOWN, "", "its Workflow was deleted", _LOOK)
        return
    attempts = last_attempts(workflow)
    failed = [(step, attempt) for step, attempt in attempts if attempt.state == FAILED_POD]
    reason = stop_reason(workflow)
    if not failed:
        step = attempts[-1][0] if attempts else ""
        _report(SUCCEEDED, step) if not reason else _report_stop(reason, step)
        return
    step, attempt = failed[0]
    lines = _log(cluster, attempt)
    if not reason:
        _report(FAILED, step, *_error(cluster, attempt, lines))
    elif any(STOP_REPORTED in text for text in messages(lines)):
        log_result(STEP, f"the run was stopped, which {step} has reported")
    else:
        _report_stop(reason, step, _error(cluster, attempt, lines)[0])


def _report_stop(reason: str, step: str, problem: str = "") -> None:
    """Reports that a run was stopped, which none of its steps has reported: none ran, or it was killed."""
    if reason == STOPPED_BY_USER:
        _report(CANCELLED, step)
    else:
        _report(FAILED, step, f"the run was stopped {reason}{problem and f': {problem}'}", _LOOK)


def _report(state: str, step: str, problem: str = "", remedy: str = "") -> None:
    log_result(STEP, " ".join(filter(None, (f"the run: {state.lower()}", step and f"in {step}"))))
    report_end(state, step, problem=problem, remedy=remedy, even_with_notify=True)


def _log(cluster: Cluster, attempt: Attempt) -> list[str]:
    """Returns the lines of a pod's log; none if it has not started or its log cannot be read."""
    if not attempt.pod:
        return []
    named = client.V1Pod(metadata=client.V1ObjectMeta(name=attempt.pod))
    try:
        return retry(lambda: read_log(cluster, named, "main"))
    except PipelineError:
        return []


def _error(cluster: Cluster, attempt: Attempt, lines: list[str]) -> tuple[str, str]:
    """Returns problem and remedy as the step printed them; otherwise what Kubernetes says about its pod."""
    failures = [text for text in messages(lines) if text.partition("\n")[0].endswith(f": {FAILED_MARK}")]
    fields = _fields(failures[-1]) if failures else {}
    reason = attempt.message
    if not lines and attempt.pod:
        reason = last_warning(cluster, attempt.pod) or reason
    return fields.get("problem") or reason or "no reason is known", fields.get("remedy") or _LOOK


def _fields(text: str) -> Mapping[str, str]:
    pairs = (line.partition(": ") for line in text.splitlines()[1:])
    return {_ERROR_FIELDS[name]: value for name, _, value in pairs if name in _ERROR_FIELDS}
