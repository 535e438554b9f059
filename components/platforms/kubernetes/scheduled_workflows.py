"""The ScheduledWorkflows of Kubeflow Pipelines' recurring runs (kubeflow.org/v1beta1)."""

from kubernetes import client

from imgpipe.components.platforms.kubernetes.client import Cluster
from imgpipe.components.platforms.kubernetes.errors import translate_errors

_TIMEOUT_SECONDS = 10


def next_triggers(cluster: Cluster) -> dict[str, str]:
    """Returns the time of the next run of each recurring run, by its id.

    Only the status of a ScheduledWorkflow has it: ``CRON_SCHEDULE_TIMEZONE`` of the controller decides what a
    cron expression means (kubeflow/pipelines 2.17, backend/src/crd/controller/scheduledworkflow). The id of a
    recurring run is the object's (CreateJob in backend/src/apiserver/resource/resource_manager.go).

    Raises:
        UnavailableError: if reading them is not allowed.
        InterruptedRunError: if the API server does not respond.
        InvalidResponseError: if the response is not one of Kubernetes.
    """
    with translate_errors(
        f"list scheduledworkflows in namespace {cluster.namespace!r}", remedy="ask for the permission"
    ):
        found = client.CustomObjectsApi(cluster.api_client).list_namespaced_custom_object(
            "kubeflow.org",
            "v1beta1",
            cluster.namespace,
            "scheduledworkflows",
            _request_timeout=_TIMEOUT_SECONDS,
        )
        triggers = {
            str(item["metadata"]["uid"]): ((item.get("status") or {}).get("trigger") or {})
            for item in found["items"]
        }
        return {uid: str(trigger.get("nextTriggeredTime") or "") for uid, trigger in triggers.items()}
