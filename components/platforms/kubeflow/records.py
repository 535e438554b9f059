"""What Kubeflow Pipelines keeps of a run beside the run itself: its Workflow, its pipeline, its logs.

The functions get KFP's own client; those that read its API raise its errors.
"""

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from imgpipe.components.platforms.kubeflow.client import translate_errors
from imgpipe.components.platforms.responses import TRANSIENT_STATUSES, is_page

_TIMEOUT_SECONDS = 60
_OK, _NOT_FOUND, _SERVER_ERROR = 200, 404, 500
# By scheme, the name that KFP's web interface gives the store (frontend/server/handlers/artifacts.ts, 2.17).
ARTIFACT_STORES = {"gs": "gcs", "s3": "s3", "minio": "minio"}


def read_workflow(api: Any, run_id: str) -> Mapping[str, Any]:
    """Returns the run's Argo Workflow as it was last reported; {} if there is none.

    It outlives the Workflow in the cluster, which is deleted an hour after its end (kubeflow/pipelines 2.17,
    manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml), and needs no
    access to the cluster. Only version 1 of the API returns it (toApiRunDetailV1 in
    backend/src/apiserver/server/api_converter.go).
    """
    import kfp_server_api

    try:
        detail = _api_client(api).call_api(
            f"/apis/v1beta1/runs/{urllib.parse.quote(run_id, safe='')}",
            "GET",
            response_type="object",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _request_timeout=_TIMEOUT_SECONDS,
        )
    except kfp_server_api.ApiException as error:
        if error.status != _NOT_FOUND:
            raise
        return {}
    runtime = (detail or {}).get("pipeline_runtime")
    manifest = runtime.get("workflow_manifest") if isinstance(runtime, dict) else None
    try:
        workflow = json.loads(manifest or "{}")
    except ValueError:
        return {}
    return workflow if isinstance(workflow, dict) else {}


def read_spec(api: Any, run: Any) -> Mapping[str, Any]:
    """Returns the specification of a run's pipeline; {} if its version has been deleted."""
    import kfp_server_api

    document = run.pipeline_spec
    reference = run.pipeline_version_reference
    if not document and reference:
        try:
            version = api.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id)
        except kfp_server_api.ApiException as error:
            if error.status != _NOT_FOUND:
                raise
            return {}
        document = version.pipeline_spec
    if not isinstance(document, Mapping):
        return {}
    spec = document.get("pipeline_spec", document)
    return spec if isinstance(spec, Mapping) and "root" in spec else {}


def read_artifact(api: Any, uri: str, namespace: str) -> str | None:
    """Returns a text artifact through KFP's web interface; None if it cannot be read there.

    Args:
        api: KFP's client; its host is the web interface, which has the credentials of the store.
        uri: Of the artifact.
        namespace: The run's namespace in a multi-user installation; otherwise empty.

    Raises:
        InterruptedRunError: if the web interface does not respond now.
    """
    import kfp_server_api

    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    if scheme not in ARTIFACT_STORES or not key:
        return None
    query = {"source": ARTIFACT_STORES[scheme], "bucket": bucket, "key": key}
    if namespace:
        query["namespace"] = namespace
    client = _api_client(api)
    headers = dict(client.default_headers)
    if client.cookie:
        headers["Cookie"] = client.cookie
    client.update_params_for_auth(headers, [], ["Bearer"])
    url = f"{client.configuration.host}/artifacts/get?{urllib.parse.urlencode(query)}"
    with translate_errors("read an artifact from the web interface"):
        response = client.rest_client.pool_manager.request(
            "GET", url, headers=headers, redirect=False, timeout=_TIMEOUT_SECONDS
        )
        # 500 is also the status for an object that does not exist.
        if response.status in TRANSIENT_STATUSES and response.status != _SERVER_ERROR:
            error = kfp_server_api.ApiException(response.status, response.reason)
            error.headers = response.headers
            raise error
    text = str(response.data.decode("utf-8", "replace"))
    # Without the web interface, e.g. at the address of ml-pipeline, or behind a login, it is a page.
    return text if response.status == _OK and not is_page(text) else None


def _api_client(api: Any) -> Any:
    return api._run_api.api_client
