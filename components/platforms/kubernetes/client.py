"""Connects to a Kubernetes cluster: one client for custom objects, pods and logs."""

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.common.urls import is_plain_http_to_other_machine
from imgpipe.components.platforms.kubernetes.errors import (
    CONFLICT,
    NOT_FOUND,
    invalid_response,
    translate_errors,
)
from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.responses import describe_body

REQUEST_TIMEOUT_SECONDS = 60
# Identifies what imgpipe created.
MANAGED_BY = {"app.kubernetes.io/managed-by": "imgpipe"}
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Of a connection that fails. Longer outages are left to the polling loop.
_RETRIES = 3
_CONTENT_ERRORS = (AttributeError, KeyError, TypeError, ValueError)


class _Retry(urllib3.Retry):
    """Repeats requests whose connection fails, but none that has used its whole time limit."""

    def increment(self, *args: Any, **named: Any) -> "_Retry":
        if isinstance(named.get("error"), urllib3.exceptions.ReadTimeoutError):
            raise named["error"]
        return super().increment(*args, **named)


class Cluster:
    """One namespace of a Kubernetes cluster.

    Attributes:
        api_client: Connections and credentials.
        namespace: Name of the namespace.
    """

    def __init__(self, api_client: client.ApiClient, namespace: str) -> None:
        self.api_client, self.namespace = api_client, namespace


def connect(
    purpose: str, namespace: str = "", *, in_cluster: bool = True, retries: int = _RETRIES
) -> Cluster:
    """Connects to the cluster that this pod runs in, or else to the current context of the kubeconfig file.

    Args:
        purpose: For the error message, e.g. ``deploy to``.
        namespace: Empty = the pod's namespace; ``default`` outside of a pod.
        in_cluster: False = always use the kubeconfig file.
        retries: How often a request is repeated if the connection fails.

    Raises:
        MissingInputError: if there is no cluster to connect to.
    """
    configuration = client.Configuration()
    # It would wait for as long as Retry-After says, without a limit.
    configuration.retries = _Retry(retries, respect_retry_after_header=False)
    try:
        if not in_cluster:
            raise config.ConfigException
        config.load_incluster_config(configuration)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)
        # The library raises the last ones for a file with another content, e.g. a list.
        except (config.ConfigException, yaml.YAMLError, OSError, *_CONTENT_ERRORS) as error:
            reason = error if isinstance(error, config.ConfigException) else _file_problem(error)
            raise MissingInputError(
                f"there is no cluster to {purpose}: {reason}",
                remedy="set KUBECONFIG to the kubeconfig file of the cluster, or run in a pod",
            ) from None
    has_credentials = configuration.api_key or configuration.username
    if has_credentials and is_plain_http_to_other_machine(configuration.host):
        raise InvalidArgumentError(
            f"the cluster at {configuration.host} would receive credentials over plain http",
            remedy="correct `server` in the kubeconfig file to https://",
        )
    return Cluster(client.ApiClient(configuration), namespace or _pod_namespace())


def _file_problem(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or "it does not contain a kubeconfig"
    return f"{os.environ.get('KUBECONFIG') or '~/.kube/config'}: {reason}"


def _pod_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return "default"


class CustomObjects:
    """The custom objects of one kind in a namespace.

    Args:
        cluster: The namespace.
        group: API group, e.g. ``serving.kserve.io``.
        version: Version of the API.
        plural: Plural name of the kind, e.g. ``inferenceservices``.
        remedy: What to do if a request is rejected.
    """

    def __init__(self, cluster: Cluster, group: str, version: str, plural: str, *, remedy: str) -> None:
        self._api = client.CustomObjectsApi(cluster.api_client)
        self._path = {
            "group": group,
            "version": version,
            "plural": plural,
            "namespace": cluster.namespace,
            "_request_timeout": REQUEST_TIMEOUT_SECONDS,
        }
        self._action = f"access {plural} in namespace {cluster.namespace!r}"
        self._remedy = remedy

    def read(self, name: str) -> dict[str, Any] | None:
        """Returns the object, or None if it does not exist."""
        found: dict[str, Any] | None = self._send(
            self._api.get_namespaced_custom_object, name=name, expected=NOT_FOUND
        )
        return found

    def list(self, label_selector: str) -> list[dict[str, Any]]:
        """Returns the objects with a label."""
        list_objects = self._api.list_namespaced_custom_object
        response = retry(lambda: self._send(list_objects, label_selector=label_selector))
        items = response.get("items")
        if not isinstance(items, list):
            raise invalid_response(self._action, "it has no items")
        return items

    def create(self, body: Mapping[str, Any]) -> bool:
        """Creates the object; returns False if there is one of the same name."""
        create = self._api.create_namespaced_custom_object
        return retry(lambda: self._send(create, body=body, expected=CONFLICT)) is not None

    def replace(self, name: str, body: Mapping[str, Any]) -> bool:
        """Replaces the object; returns False if it has changed since ``body`` was read."""
        replace = self._api.replace_namespaced_custom_object
        return retry(lambda: self._send(replace, name=name, body=body, expected=CONFLICT)) is not None

    def delete(self, name: str) -> None:
        """Deletes the object if it exists."""
        delete = self._api.delete_namespaced_custom_object
        retry(lambda: self._send(delete, name=name, expected=NOT_FOUND))

    def _send(self, request: Callable[..., Any], *, expected: int = 0, **arguments: Any) -> Any:
        """Returns the response, or None if its status is the expected error."""
        with translate_errors(self._action, remedy=self._remedy):
            try:
                response = request(**self._path, **arguments)
            except client.ApiException as error:
                if error.status != expected:
                    raise
                return None
        if not isinstance(response, dict):
            raise invalid_response(self._action, describe_body(str(response)))
        return response


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


def check_managed(found: Mapping[str, Any], name: str, argument: str) -> None:
    """Rejects an object that imgpipe did not create: it must not be changed.

    Args:
        found: The object.
        name: For the error message, e.g. ``InferenceService team/flowers``.
        argument: The argument that names the object.

    Raises:
        OutputError: if it lacks imgpipe's label.
    """
    labels = found["metadata"].get("labels") or {}
    if not MANAGED_BY.items() <= labels.items():
        raise OutputError(
            f"{name} was not created by imgpipe",
            remedy=f"give another {argument}; imgpipe changes only what it has created",
        )
