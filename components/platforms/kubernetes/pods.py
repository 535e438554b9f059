"""The pods of a namespace: their states, logs and events."""

from kubernetes import client

from imgpipe.components.common.errors import PipelineError
from imgpipe.components.platforms.kubernetes.client import REQUEST_TIMEOUT_SECONDS, Cluster
from imgpipe.components.platforms.kubernetes.errors import invalid_response, translate_errors
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.responses import describe_body, is_page

# Every other reason why a container waits is an error, e.g. ImagePullBackOff.
_NORMAL_WAITING = ("ContainerCreating", "PodInitializing")
# A reason that is missing is shown by the next poll.
_RETRY_SECONDS = 5.0
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
        InvalidResponseError: if the response is the page of a proxy.
    """
    action = f"read the log of pod {pod.metadata.name}"
    with translate_errors(action, remedy=_REMEDY):
        response = client.CoreV1Api(cluster.api_client).read_namespaced_pod_log(
            pod.metadata.name,
            cluster.namespace,
            container=container,
            tail_lines=max_lines,
            _request_timeout=REQUEST_TIMEOUT_SECONDS,
            # The client library would decode a log that is one JSON object, e.g. its first line.
            _preload_content=False,
        )
        text = str(response.data, "utf-8", errors="replace")
    if is_page(text):
        raise invalid_response(action, describe_body(text))
    return text.splitlines()


def container_ended(pod: client.V1Pod, container: str) -> client.V1ContainerStateTerminated | None:
    """Returns how a container ended; None if it has not."""
    for status in pod.status.container_statuses or ():
        if status.name == container and status.state and status.state.terminated:
            return status.state.terminated
    return None


def has_ended(pod: client.V1Pod, container: str) -> bool:
    """Returns whether a container has ended, or its pod has, e.g. by an eviction."""
    return pod.status.phase in ("Succeeded", "Failed") or container_ended(pod, container) is not None


def waiting_reason(pod: client.V1Pod) -> str:
    """Returns why a pod does not start; empty if it runs, has ended, or nothing is wrong so far.

    The reasons are an image that cannot be pulled, a configuration that is invalid, and no suitable node.
    """
    if pod.status.phase not in (None, "Pending"):
        return ""
    for status in [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]:
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason and waiting.reason not in _NORMAL_WAITING:
            return f"{waiting.reason}: {waiting.message or status.image or status.name}"
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    return ""


def waits_for_configuration(reason: str) -> bool:
    """Returns whether a ``waiting_reason`` is a mistake that no amount of waiting for nodes corrects."""
    return bool(reason) and not reason.startswith(("Unschedulable", "SchedulingGated"))


def last_warning(cluster: Cluster, name: str) -> str:
    """Returns the message of an object's last warning event; empty if it has none or it may not be read.

    Only events have some reasons, e.g. a Job whose pods are refused, or a volume that cannot be mounted.
    """
    try:
        return retry(lambda: _last_warning(cluster, name), seconds=_RETRY_SECONDS)
    except PipelineError:
        return ""


def _last_warning(cluster: Cluster, name: str) -> str:
    with translate_errors(f"list events in namespace {cluster.namespace!r}", remedy=_REMEDY):
        events = client.CoreV1Api(cluster.api_client).list_namespaced_event(
            cluster.namespace,
            field_selector=f"involvedObject.name={name},type=Warning",
            _request_timeout=REQUEST_TIMEOUT_SECONDS,
        )
        # They are not in the order of time.
        last = max(
            events.items, key=lambda event: str(event.last_timestamp or event.event_time), default=None
        )
        return str(last.message or "") if last else ""
