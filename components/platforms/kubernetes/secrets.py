"""Reads a Secret."""

import base64

from kubernetes import client

from imgpipe.components.platforms.kubernetes.client import Cluster
from imgpipe.components.platforms.kubernetes.errors import NOT_FOUND, invalid_response, translate_errors


def read_secret(cluster: Cluster, name: str, *, timeout_seconds: int) -> dict[str, str]:
    """Returns the entries of a Secret, empty if there is none; bytes that are not UTF-8 are replaced.

    Raises:
        UnavailableError: if reading it is not allowed.
        InterruptedRunError: if the API server cannot be reached.
        InvalidResponseError: if the response is not a Secret.
    """
    action = f"read the Secret {name!r} in namespace {cluster.namespace!r}"
    with translate_errors(action, remedy="ask for the permission"):
        try:
            secret = client.CoreV1Api(cluster.api_client).read_namespaced_secret(
                name, cluster.namespace, _request_timeout=timeout_seconds
            )
        except client.ApiException as error:
            if error.status != NOT_FOUND:
                raise
            return {}
        # The client library reads a page as a Secret without fields.
        if secret.kind != "Secret":
            raise invalid_response(action)
        return {
            entry: base64.b64decode(value).decode("utf-8", "replace")
            for entry, value in (secret.data or {}).items()
        }
