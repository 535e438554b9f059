"""The logs of a run's pods, which only Kubernetes itself has."""

import time
from collections.abc import Callable, Iterator

from imgpipe.components.common.errors import InterruptedRunError, MissingInputError, UnavailableError

_PODS_NAMESPACE = "kubeflow"
_POLL_SECONDS = 3.0


def stream_logs(run_id: str, has_ended: Callable[[], bool], namespace: str, *, follow: bool) -> Iterator[str]:
    """Yields the lines of a run's output.

    Args:
        run_id: Id of the run.
        has_ended: Returns whether the run has ended.
        namespace: The user's namespace; empty = the installation's.
        follow: Whether to continue until the run has ended.

    Raises:
        UnavailableError: if there is no access to the cluster from this machine.
        InterruptedRunError: if the cluster does not respond.
    """
    # Takes a second to import.
    from imgpipe.components.platforms.kubernetes.client import connect
    from imgpipe.components.platforms.kubernetes.pods import list_pods, read_log

    try:
        cluster = connect("read the logs from", namespace or _PODS_NAMESPACE, in_cluster=False)
    except MissingInputError as error:
        raise UnavailableError(
            error.problem, remedy="set KUBECONFIG, or open the run in Kubeflow's web interface"
        ) from None
    printed: dict[str, list[str]] = {}
    while True:
        # Checked before the logs are read: the last pass prints everything.
        ended = has_ended()
        for pod in list_pods(cluster, f"pipeline/runid={run_id}"):
            name = pod.metadata.name
            # Kubeflow's drivers, which run between the steps.
            if "-driver-" in name:
                continue
            try:
                lines = read_log(cluster, pod, "main")
            except (InterruptedRunError, UnavailableError):
                # The container has not started, the pod was deleted, or its node does not respond now.
                continue
            before = printed.get(name, [])
            # When a log file is full, its node starts a new one: the first lines differ.
            yield from lines[len(before) if lines[: len(before)] == before else 0 :]
            printed[name] = lines
        if ended or not follow:
            return
        time.sleep(_POLL_SECONDS)
