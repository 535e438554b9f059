"""Asks Kubernetes what this account may do, and returns the manifest that grants what it may not."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from kubernetes import client

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.platforms.kubernetes.client import REQUEST_TIMEOUT_SECONDS, Cluster
from imgpipe.components.platforms.kubernetes.errors import NOT_FOUND, translate_errors
from imgpipe.components.platforms.polling import retry

# Kubernetes itself, or Kubeflow Pipelines, has the other groups.
_VERSIONS = {"serving.kserve.io": "v1beta1", "kubeflow.org": "v1beta1", "serving.knative.dev": "v1"}
_PRODUCTS = {"serving.kserve.io": "KServe", "kubeflow.org": "Katib"}
_ACTION = "say what an account may do"
_RBAC, _SERVICE_ACCOUNT = "rbac.authorization.k8s.io", "system:serviceaccount:"


@dataclass(frozen=True)
class Need:
    """Access that a step needs.

    Attributes:
        group: The API group; empty = the core group.
        resource: Plural name of the kind, or ``pods/log``.
        verbs: What the step does with it.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]


# What the clients in kserve.py, katib.py and workflow.py send.
KSERVE_NEEDS = (
    Need("serving.kserve.io", "inferenceservices", ("get", "create", "update", "delete")),
    Need("apps", "deployments", ("get",)),
    # Where KServe has Knative.
    Need("serving.knative.dev", "revisions", ("get",)),
    Need("", "pods", ("list",)),
)
KATIB_NEEDS = (
    Need("kubeflow.org", "experiments", ("get", "create", "delete")),
    Need("kubeflow.org", "suggestions", ("get",)),
    Need("kubeflow.org", "trials", ("list", "delete")),
    Need("", "pods", ("list",)),
    Need("", "pods/log", ("get",)),
)
# In the namespace of the step.
CANCELLATION_NEEDS = (Need("argoproj.io", "workflows", ("get",)), Need("", "pods", ("get",)))


def check_access(cluster: Cluster, needs: Iterable[Need], purpose: str, account: str = "") -> None:
    """Checks that an account may do what a later step will do.

    Args:
        cluster: The namespace in which it will be done.
        needs: The access.
        purpose: For the error, e.g. ``deploy_target=kserve``.
        account: Its user name; empty = the account of this client, which may always ask about itself.

    Raises:
        UnavailableError: if it may not, with the Role and RoleBinding that allow it; or if the cluster does
            not have the API.
        InterruptedRunError: if the API server cannot be reached.
        InvalidResponseError: if a response is not one of Kubernetes.
    """
    needs = list(needs)
    for group in dict.fromkeys(need.group for need in needs if need.group in _VERSIONS):
        if retry(partial(_is_installed, cluster, group)):
            continue
        if group in _PRODUCTS:
            raise UnavailableError(
                f"{purpose}: the cluster has no API {group}/{_VERSIONS[group]}",
                remedy=f"install {_PRODUCTS[group]} in the cluster, or choose another value",
            )
        needs = [need for need in needs if need.group != group]
    asked = [(need, verb) for need in needs for verb in need.verbs]
    missing = [
        f"{verb} {need.resource}.{need.group}".rstrip(".")
        for need, verb in asked
        if not retry(partial(_is_allowed, cluster, need, verb, account))
    ]
    if missing:
        account = account or retry(partial(_own_account, cluster))
        raise UnavailableError(
            f"{purpose}: {account} may not {', '.join(missing)} in namespace {cluster.namespace!r}",
            remedy=f"have an administrator apply this:\n{_manifest(needs, cluster.namespace, account)}",
        )


def _is_installed(cluster: Cluster, group: str) -> bool:
    """Returns whether the cluster has an API: permissions can be granted for one that does not exist."""
    with translate_errors(f"list its {group} API", remedy="allow discovery, as system:discovery does"):
        try:
            resources = client.CustomObjectsApi(cluster.api_client).get_api_resources(
                group, _VERSIONS[group], _request_timeout=REQUEST_TIMEOUT_SECONDS
            )
            # A response that is not a list has none.
            list(resources.resources)
        except client.ApiException as error:
            if error.status != NOT_FOUND:
                raise
            return False
    return True


def _is_allowed(cluster: Cluster, need: Need, verb: str, account: str) -> bool:
    reviews = client.AuthorizationV1Api(cluster.api_client)
    resource, _, subresource = need.resource.partition("/")
    attributes = client.V1ResourceAttributes(
        namespace=cluster.namespace, group=need.group, resource=resource, subresource=subresource, verb=verb
    )
    spec = {"resourceAttributes": attributes, **({"user": account} if account else {})}
    send = reviews.create_subject_access_review if account else reviews.create_self_subject_access_review
    with translate_errors(_ACTION, remedy="allow subjectaccessreviews"):
        review = send({"spec": spec}, _request_timeout=REQUEST_TIMEOUT_SECONDS)
        return bool(review.status.allowed)


def _own_account(cluster: Cluster) -> str:
    """Returns the user name of this client's account."""
    with translate_errors(_ACTION, remedy="allow selfsubjectreviews, as system:basic-user does"):
        review = client.AuthenticationV1Api(cluster.api_client).create_self_subject_review(
            client.V1SelfSubjectReview(), _request_timeout=REQUEST_TIMEOUT_SECONDS
        )
        return str(review.status.user_info.username)


def _manifest(needs: Sequence[Need], namespace: str, account: str) -> str:
    """Returns a Role with the needs, and a RoleBinding of the account, as YAML."""
    # One Role a kind, so that one does not replace the other.
    name = f"imgpipe-{needs[0].resource}"
    subject = {"kind": "User", "name": account, "apiGroup": _RBAC}
    if account.startswith(_SERVICE_ACCOUNT):
        owner, _, account_name = account.removeprefix(_SERVICE_ACCOUNT).partition(":")
        subject = {"kind": "ServiceAccount", "name": account_name, "namespace": owner}
    rules = [
        {"apiGroups": [need.group], "resources": [need.resource], "verbs": list(need.verbs)} for need in needs
    ]
    contents: dict[str, dict[str, Any]] = {
        "Role": {"rules": rules},
        "RoleBinding": {
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    }
    items = [
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            **content,
        }
        for kind, content in contents.items()
    ]
    # One list instead of two documents: it can be copied from a log, where it is indented.
    manifest = {"apiVersion": "v1", "kind": "List", "items": items}
    return str(yaml.safe_dump(manifest, sort_keys=False, default_flow_style=None, width=math.inf)).rstrip()
