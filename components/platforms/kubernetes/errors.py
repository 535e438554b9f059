"""Translates the errors of the Kubernetes API into ours."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from kubernetes.client import ApiException

from imgpipe.components.common.errors import InterruptedRunError, UnavailableError

NOT_FOUND, CONFLICT = 404, 409
# The API server, or a proxy in front of it, is overloaded or restarts.
_TRANSIENT = (429, 500, 502, 503, 504)


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
        if error.status not in _TRANSIENT:
            raise UnavailableError(
                f"Kubernetes refused to {action}: {error.status} {_message(error)}", remedy=remedy
            ) from None
        cause = f"{error.status} {_message(error)}"
    except urllib3.exceptions.HTTPError as error:
        cause = type(error).__name__
    else:
        return
    raise InterruptedRunError(
        f"Kubernetes did not respond to a request to {action}: {cause}",
        remedy="check the cluster with `kubectl cluster-info`, then try again; running pods are not affected",
    )


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
