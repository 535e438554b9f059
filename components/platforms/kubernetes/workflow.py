"""The Argo Workflow of this step's run on Kubeflow Pipelines, and those that it has scheduled."""

import os
from collections.abc import Mapping
from typing import Any

from kubernetes import client

from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.kubeflow.workflow import CANCELLED, stop_reason
from imgpipe.components.platforms.kubernetes.client import Cluster, connect
from imgpipe.components.platforms.kubernetes.errors import NOT_FOUND, translate_errors

WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
# backend/src/v2/compiler/argocompiler/common.go in kubeflow/pipelines.
_POD_VARIABLE = "KFP_POD_NAME"
_GROUP, _VERSION, _PLURAL = "argoproj.io", "v1alpha1", "workflows"
# On Kubeflow, a step has less than a second after SIGTERM; elsewhere a pod has 30 seconds by default.
_TIMEOUT_SECONDS = 5
_LIST_TIMEOUT_SECONDS = 10


def own_stop_reason() -> str:
    """Returns why the run of this step has been stopped, see ``stop_reason``; "" if that is unknown.

    A Workflow that was deleted is cancelled: it starts no other pod. An eviction of the step's pod does not
    change the Workflow: Argo starts the step again in another pod.
    """
    if not os.environ.get(_POD_VARIABLE):
        return ""
    try:
        workflow = read_own_workflow(connect("find this run on", retries=0))
        return CANCELLED if workflow is None else stop_reason(workflow)
    except Exception as error:
        log_event(
            "cancellation_unknown",
            f"cannot determine whether the run was stopped: {error}",
            severity="WARNING",
        )
        return ""


def read_own_workflow(cluster: Cluster) -> Mapping[str, Any] | None:
    """Returns the Workflow of this pod; None if it was deleted.

    Raises:
        UnavailableError: if it may not be read.
        InterruptedRunError: if the API server does not respond.
        InvalidResponseError: if the response is not one of Kubernetes.
    """
    with translate_errors("read the Workflow of this pod", remedy="allow the account to get workflows"):
        pod = client.CoreV1Api(cluster.api_client).read_namespaced_pod(
            os.environ.get(_POD_VARIABLE, ""), cluster.namespace, _request_timeout=_TIMEOUT_SECONDS
        )
        name = pod.metadata.labels[WORKFLOW_LABEL]
        try:
            found = client.CustomObjectsApi(cluster.api_client).get_namespaced_custom_object(
                _GROUP, _VERSION, cluster.namespace, _PLURAL, name, _request_timeout=_TIMEOUT_SECONDS
            )
        except client.ApiException as error:
            if error.status != NOT_FOUND:
                raise
            return None
        # A page is read as text.
        return dict(found)


def next_triggers(cluster: Cluster) -> dict[str, str]:
    """Returns the time of the next run of each recurring run of Kubeflow Pipelines, by its id.

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
            _request_timeout=_LIST_TIMEOUT_SECONDS,
        )
        triggers = {
            str(item["metadata"]["uid"]): ((item.get("status") or {}).get("trigger") or {})
            for item in found["items"]
        }
        return {uid: str(trigger.get("nextTriggeredTime") or "") for uid, trigger in triggers.items()}
