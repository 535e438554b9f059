"""The Kubernetes client of a step: the cluster that it runs in, or the one of the kubeconfig file."""

import json
from pathlib import Path

from kubernetes import client, config

from imgpipe.components.common.errors import MissingInputError, UnavailableError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def default_client(purpose: str) -> client.ApiClient:
    """Returns the client of the pod's cluster, or of the one that the kubeconfig file names.

    Args:
        purpose: For the error, e.g. ``deploy to``.

    Raises:
        MissingInputError: if there is neither.
    """
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise MissingInputError(
                f"there is no cluster to {purpose}: {error}",
                remedy="run the step in a pod, or set KUBECONFIG to the cluster's file",
            ) from None
    return client.ApiClient()


def own_namespace() -> str:
    """Returns the pod's namespace; ``default`` outside of one."""
    try:
        return _NAMESPACE_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return "default"


def refused(error: client.ApiException, what: str, remedy: str) -> UnavailableError:
    """Returns a refusal of the cluster as our error.

    Args:
        error: Of the client.
        what: Was asked for, e.g. ``experiments of namespace 'team'``.
        remedy: What to do about it.
    """
    try:
        reason = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        reason = error.reason
    return UnavailableError(f"the cluster refuses {what}: {error.status} {reason}", remedy=remedy)
