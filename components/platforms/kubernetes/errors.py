"""Translates the errors of the Kubernetes API into ours."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from kubernetes.client import ApiException

from imgpipe.components.common.errors import InterruptedRunError, UnavailableError
from imgpipe.components.platforms.responses import TRANSIENT_STATUSES, retry_after_seconds

NOT_FOUND, CONFLICT = 404, 409


@contextmanager
def translate_errors(action: str, *, remedy: str) -> Iterator[None]:
    """Raises our errors in place of the client library's.

    Args:
        action: What the block does, for the message, e.g. ``list the pods of the run``.
        remedy: What to do if the request is rejected, e.g. for lack of a permission.

    Raises:
        InterruptedRunError: if the API server cannot be reached or does not respond now.
        UnavailableError: if it rejects the request.
    """
    try:
        yield
    except ApiException as error:
        if error.status not in TRANSIENT_STATUSES:
            raise UnavailableError(
                f"Kubernetes refused to {action}: {error.status} {_message(error)}", remedy=remedy
            ) from None
        cause = f"{error.status} {_message(error)}"
        wait = retry_after_seconds(error.headers)
    except urllib3.exceptions.HTTPError as error:
        cause, wait = type(getattr(error, "reason", None) or error).__name__, 0.0
    else:
        return
    raise InterruptedRunError(
        f"Kubernetes did not respond to a request to {action}: {cause}",
        remedy="check the cluster with `kubectl cluster-info`, then try again; running pods are not affected",
        retry_after=wait,
    )


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
