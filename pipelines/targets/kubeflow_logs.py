"""The logs of a run's steps: of their pods, or of the artifacts that the pods have left."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from imgpipe.components.common.errors import InterruptedRunError, MissingInputError, UnavailableError
from imgpipe.components.common.log import own_lines
from imgpipe.components.platforms.kubeflow.records import read_artifact
from imgpipe.components.platforms.kubeflow.workflow import WAITING, Step
from imgpipe.components.platforms.polling import retry

DEFAULT_NAMESPACE = "kubeflow"
_POLL_SECONDS = 3.0
_CONNECT_SECONDS = 10.0
# For `describe`, which shows what it can read now.
RETRY_SECONDS = 5.0
_NODE_ID = "workflows.argoproj.io/node-id"
_HOW_TO_LOOK = (
    "set KUBECONFIG to a cluster whose pods you may read, or open the run in Kubeflow's web interface"
)


@dataclass
class StepLogs:
    """Reads the logs of a run's steps.

    Attributes:
        api: KFP's client.
        run_id: Id of the run.
        namespace: The user's namespace; empty = the installation's.
    """

    api: Any
    run_id: str
    namespace: str
    _cluster: Any = None
    _pods: dict[str, Any] = field(default_factory=dict)
    _error: UnavailableError | None = None

    def connect(self) -> None:
        """Connects to the cluster and finds the run's pods; without access, artifacts remain.

        Raises:
            InterruptedRunError: if the cluster does not respond.
        """
        # Takes a second to import.
        from imgpipe.components.platforms.kubernetes.client import connect
        from imgpipe.components.platforms.kubernetes.pods import list_pods

        try:
            if self._cluster is None:
                self._cluster = connect(
                    "read the logs from", self.namespace or DEFAULT_NAMESPACE, in_cluster=False
                )
            pods = list_pods(self._cluster, f"pipeline/runid={self.run_id}")
        except (MissingInputError, UnavailableError) as error:
            self._error = UnavailableError(error.problem, remedy=_HOW_TO_LOOK)
            return
        self._pods = {(pod.metadata.annotations or {}).get(_NODE_ID, ""): pod for pod in pods}

    def with_reason(self, step: Step) -> Step:
        """Returns a step that waits with the reason that its pod or the pod's events have, if any.

        Argo does not pass on e.g. that a volume cannot be mounted because its secret is missing.
        """
        from imgpipe.components.platforms.kubernetes.pods import last_warning, waiting_reason

        pod = self._pods.get(step.attempts[-1].node) if step.attempts else None
        if step.state != WAITING or step.message or pod is None:
            return step
        reason = waiting_reason(pod) or last_warning(self._cluster, pod.metadata.name)
        return dataclasses.replace(step, message=reason)

    def last_warning(self, step: Step) -> str:
        """Returns the last warning about a step's last pod, also if the pod was deleted; "" if there is none.

        A cluster keeps events for an hour, unless it is configured otherwise.
        """
        from imgpipe.components.platforms.kubernetes.pods import last_warning

        pod = step.attempts[-1].pod if step.attempts else ""
        return last_warning(self._cluster, pod) if self._cluster is not None and pod else ""

    def read(self, step: Step, number: int, *, wait: bool = False) -> list[str] | None:
        """Returns the lines of an attempt of a step (0 = the first); None if there are none yet.

        Args:
            step: The step.
            number: The attempt.
            wait: Whether to repeat the request while the pod's node does not respond.

        Raises:
            UnavailableError: if the attempt has ended, and neither its pod nor its artifact can be read.
            InterruptedRunError: with ``wait``, if the node or KFP's web interface does not respond.
        """
        from imgpipe.components.platforms.kubernetes.errors import FORBIDDEN
        from imgpipe.components.platforms.kubernetes.pods import read_log

        attempt = step.attempts[number]
        pod = self._pods.get(attempt.node)
        interruption: InterruptedRunError | None = None
        if pod is not None:
            try:
                return retry(lambda: read_log(self._cluster, pod, "main"), seconds=None if wait else 0)
            except InterruptedRunError as error:
                # Its node does not respond now.
                if not wait:
                    return None
                interruption = error
            except UnavailableError as error:
                # The container has not started, the pod was deleted, or its log may not be read.
                if error.status == FORBIDDEN:
                    self._error = UnavailableError(error.problem, remedy=_HOW_TO_LOOK)
        if not attempt.ended and not interruption:
            if self._error is not None and attempt.state != WAITING:
                raise self._error
            return None
        # The launcher numbers the artifacts of attempts (qualifyExecutorLogsURI in kubeflow/pipelines 2.17,
        # backend/src/v2/component/launcher_v2.go); older ones did not.
        for uri in (f"{step.log_uri}-{number}", step.log_uri) if step.log_uri else ():
            read = partial(read_artifact, self.api, uri, self.namespace)
            try:
                text = retry(read, seconds=None if wait else RETRY_SECONDS)
            except InterruptedRunError:
                if wait:
                    raise
                return None
            if text is not None:
                return text.splitlines()
        if interruption is not None:
            raise interruption
        if self._error is not None:
            raise self._error
        return None


def stream_logs(
    logs: StepLogs,
    read_steps: Callable[[], list[Step]],
    has_ended: Callable[[], bool],
    *,
    follow: bool,
    everything: bool = False,
) -> Iterator[str]:
    """Yields the lines of a run's steps, and why a step waits or starts again.

    Args:
        logs: Reads the logs.
        read_steps: Returns the steps of the run.
        has_ended: Returns whether the run has ended.
        follow: Whether to continue until the run has ended.
        everything: Whether to yield the lines of KFP and of libraries too.

    Raises:
        UnavailableError: if there is no access to the logs from this machine, or no log.
        InterruptedRunError: if the cluster does not respond.
    """
    printed: dict[str, list[str]] = {}
    reported: set[tuple[str, ...]] = set()
    unreadable: list[str] = []
    # An address that does not respond at first is more often wrong than a server that restarts.
    connect_seconds: float | None = _CONNECT_SECONDS
    while True:
        # Checked before the logs are read: the last pass prints everything.
        ended = has_ended()
        retry(logs.connect, seconds=connect_seconds)
        connect_seconds = None
        steps = read_steps()
        for step in map(logs.with_reason, steps):
            if step.state == WAITING and step.message and (step.name, step.message) not in reported:
                reported.add((step.name, step.message))
                yield f"{step.name}: waiting: {step.message}"
            for number, attempt in enumerate(step.attempts):
                if number and (attempt.node,) not in reported:
                    reported.add((attempt.node,))
                    reason = step.attempts[number - 1].message
                    yield f"{step.name}: starts again{': ' if reason else ''}{reason}"
                # A log that has been printed to its end is not read again.
                if (attempt.node, "ended") in reported:
                    continue
                lines = logs.read(step, number, wait=ended or not follow)
                if lines is None:
                    if ended and attempt.ended and attempt.node not in printed:
                        unreadable.append(step.name)
                    continue
                if attempt.ended:
                    reported.add((attempt.node, "ended"))
                before = printed.get(attempt.node, [])
                # When a log file is full, its node starts a new one: the first lines differ.
                new = len(before) if lines[: len(before)] == before else 0
                yield from lines[new:] if everything else _own(lines, new)
                printed[attempt.node] = lines
        if unreadable:
            raise UnavailableError(
                f"there is no log of {', '.join(dict.fromkeys(unreadable))}: the pods are deleted, and the "
                "artifacts executor-logs cannot be read from here",
                where=logs.run_id,
                remedy="give the address of Kubeflow's web interface as --host, or open the run there",
            )
        if ended or not follow:
            return
        time.sleep(_POLL_SECONDS)


def _own(lines: list[str], start: int) -> Iterator[str]:
    """Yields our lines from ``start`` on: a line's continuation is known by the lines before it."""
    own = list(own_lines(lines))
    before = sum(1 for _ in own_lines(lines[:start]))
    yield from own[before:]
