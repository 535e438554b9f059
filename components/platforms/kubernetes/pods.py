"""The pods of a namespace and their logs."""

from kubernetes import client

from imgpipe.components.platforms.kubernetes.client import REQUEST_TIMEOUT_SECONDS, Cluster
from imgpipe.components.platforms.kubernetes.errors import translate_errors

_REMEDY = "check the namespace, and grant the account the right to list pods and read their logs there"


def list_pods(cluster: Cluster, label_selector: str) -> list[client.V1Pod]:
    """Returns the pods with a label, oldest first."""
    with translate_errors(f"list pods in namespace {cluster.namespace!r}", remedy=_REMEDY):
        pods = client.CoreV1Api(cluster.api_client).list_namespaced_pod(
            cluster.namespace, label_selector=label_selector, _request_timeout=REQUEST_TIMEOUT_SECONDS
        )
    return sorted(pods.items, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))


def read_log(
    cluster: Cluster, pod: client.V1Pod, container: str, *, max_lines: int | None = None
) -> list[str]:
    """Returns the lines of a container's log, or its last ``max_lines`` lines.

    Raises:
        InterruptedRunError: if the API server does not respond now.
        UnavailableError: if there is no log, because the container has not started or the pod was deleted,
            or it may not be read.
    """
    with translate_errors(f"read the log of pod {pod.metadata.name}", remedy=_REMEDY):
        text = client.CoreV1Api(cluster.api_client).read_namespaced_pod_log(
            pod.metadata.name,
            cluster.namespace,
            container=container,
            tail_lines=max_lines,
            _request_timeout=REQUEST_TIMEOUT_SECONDS,
        )
    return str(text).splitlines()
