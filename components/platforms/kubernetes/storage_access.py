"""What KServe's storage initializer needs to read a model from S3, judged before a service is created.

It gets the keys of the Secrets that belong to the ServiceAccount of the server's pods (KServe, August 2026,
pkg/credentials: service_account_credentials.go and s3/s3_secret.go).
"""

import os

from kubernetes import client

from imgpipe.components.common.errors import MissingInputError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.kubernetes.client import REQUEST_TIMEOUT_SECONDS, Cluster
from imgpipe.components.platforms.kubernetes.errors import NOT_FOUND, translate_errors

_ROLE = "eks.amazonaws.com/role-arn"
_ENDPOINT = "serving.kserve.io/s3-endpoint"
# The entries in KServe's default configuration, and without one.
_KEYS = ("AWS_SECRET_ACCESS_KEY", "awsSecretAccessKey")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REMEDY = "see docs/deploy.md, section KServe, for the Secret and the ServiceAccount"


def check_s3_access(cluster: Cluster, account: str) -> None:
    """Logs a warning if the server's pods probably cannot read from S3; nothing if that cannot be judged.

    Only a warning, because nodes may have an identity, and KServe's configuration may name an endpoint.

    Args:
        cluster: The namespace of the service.
        account: The ServiceAccount of the pods; empty = the default one.

    Raises:
        MissingInputError: if there is no such ServiceAccount.
        InterruptedRunError: if the API server does not respond.
    """
    account = account or "default"
    try:
        problem = _problem(cluster, account)
    except UnavailableError as error:
        if error.status == NOT_FOUND:
            raise MissingInputError(
                f"the ServiceAccount {account!r} of the server, or one of its Secrets, does not exist in "
                f"namespace {cluster.namespace!r}",
                remedy=_REMEDY,
            ) from None
        problem = f"not checked whether KServe can read the model from S3: {error.problem}"
        log_event("storage_access_not_checked", f"deploy: {problem}")
        return
    if problem:
        log_event("no_storage_access", f"deploy: {problem}; {_REMEDY}", severity="WARNING")


def _problem(cluster: Cluster, account: str) -> str:
    api = client.CoreV1Api(cluster.api_client)
    options = {"namespace": cluster.namespace, "_request_timeout": REQUEST_TIMEOUT_SECONDS}
    with translate_errors(f"read the ServiceAccount {account!r} and its Secrets", remedy=_REMEDY):
        found = api.read_namespaced_service_account(account, **options)
        if _ROLE in (found.metadata.annotations or {}):
            return ""
        names = [reference.name for reference in found.secrets or ()]
        secrets = [api.read_namespaced_secret(name, **options) for name in names]
    usable = [secret for secret in secrets if any(key in (secret.data or {}) for key in _KEYS)]
    if not usable:
        return (
            f"KServe may not be able to read the model from S3: the ServiceAccount {account} has no role, "
            f"and no Secret with {_KEYS[0]}; its Secrets are: {', '.join(names) or 'none'}"
        )
    endpoint = next(filter(None, (os.environ.get(name) for name in _ENDPOINT_VARIABLES)), "")
    if endpoint and not any(_ENDPOINT in (secret.metadata.annotations or {}) for secret in usable):
        return (
            f"KServe may look for the model at AWS: this step uses another server, and Secret "
            f"{usable[0].metadata.name} has no annotation {_ENDPOINT}"
        )
    return ""
