"""The Argo Workflow of this step's run on Kubeflow Pipelines: has the user cancelled it?"""

import os

from kubernetes import client

from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.errors import NOT_FOUND

_WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
_GROUP, _VERSION, _PLURAL = "argoproj.io", "v1alpha1", "workflows"
# By default, a pod has 30 seconds between SIGTERM and SIGKILL.
_TIMEOUT_SECONDS = 5


def is_cancelled() -> bool:
    """Returns whether the run of this step was cancelled or deleted; False if that cannot be determined.

    Kubeflow Pipelines cancels a run by setting ``activeDeadlineSeconds`` of its Workflow to 0, Argo by
    setting ``shutdown``. An eviction of the step's pod does not change the Workflow: Argo starts the step
    again in another pod.
    """
    # KFP_POD_NAME: backend/src/v2/compiler/argocompiler/common.go in kubeflow/pipelines.
    pod_name = os.environ.get("KFP_POD_NAME")
    if not pod_name:
        return False
    try:
        cluster = connect("find this run on", retries=0)
        pod = client.CoreV1Api(cluster.api_client).read_namespaced_pod(
            pod_name, cluster.namespace, _request_timeout=_TIMEOUT_SECONDS
        )
        name = (pod.metadata.labels or {}).get(_WORKFLOW_LABEL)
        if not name:
            return False
        try:
            workflow = client.CustomObjectsApi(cluster.api_client).get_namespaced_custom_object(
                _GROUP, _VERSION, cluster.namespace, _PLURAL, name, _request_timeout=_TIMEOUT_SECONDS
            )
        except client.ApiException as error:
            # A deleted run starts no other pod.
            if error.status == NOT_FOUND:
                return True
            raise
        spec = workflow["spec"]
        return (
            spec.get("activeDeadlineSeconds") == 0
            or bool(spec.get("shutdown"))
            or "deletionTimestamp" in workflow["metadata"]
        )
    except Exception as error:
        log_event(
            "cancellation_unknown",
            f"cannot determine whether the run was cancelled: {type(error).__name__}",
            severity="WARNING",
        )
        return False
