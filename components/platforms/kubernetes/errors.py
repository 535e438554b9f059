"""Translates the errors of the Kubernetes API into ours."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from kubernetes.client import ApiException

from imgpipe.components.common.errors import InterruptedRunError, InvalidResponseError, UnavailableError
from imgpipe.components.platforms.responses import TRANSIENT_STATUSES, retry_after_seconds

FORBIDDEN, NOT_FOUND, CONFLICT = 403, 404, 409
# The account has the right, but a webhook, a policy or a quota of the cluster refuses this object.
_ADMISSION = re.compile("admission webhook|ValidatingAdmissionPolicy|exceeded quota|violates PodSecurity")
_ADMISSION_REMEDY = "change what the message names, or ask the administrator of the cluster to allow it"
# What the client library, or the reading of its response, raises for a page, ``null`` or half of a response.
_CONTENT_ERRORS = (AttributeError, LookupError, TypeError, ValueError)


@contextmanager
def translate_errors(action: str, *, remedy: str) -> Iterator[None]:
    """Raises our errors in place of the client library's.

    Args:
        action: What the block does, for the message, e.g. ``list the pods of the run``. The block sends the
            request and reads the fields of the response.
        remedy: What to do if the request is rejected, e.g. for lack of a permission.

    Raises:
        InterruptedRunError: if the API server cannot be reached or does not respond now.
        UnavailableError: if it rejects the request.
        InvalidResponseError: if the response is not one of Kubernetes, e.g. the page of a proxy.
    """
    try:
        yield
    except ApiException as error:
        if error.status not in TRANSIENT_STATUSES:
            message = _message(error)
            raise UnavailableError(
                f"Kubernetes refused to {action}: {error.status} {message}",
                remedy=_ADMISSION_REMEDY if _ADMISSION.search(message) else remedy,
                status=error.status or 0,
            ) from None
        cause = f"{error.status} {_message(error)}"
        wait = retry_after_seconds(error.headers)
    except urllib3.exceptions.HTTPError as error:
        cause, wait = type(getattr(error, "reason", None) or error).__name__, 0.0
    except _CONTENT_ERRORS:
        raise invalid_response(action) from None
    else:
        return
    raise InterruptedRunError(
        f"Kubernetes did not respond to a request to {action}: {cause}",
        remedy="check the cluster with `kubectl cluster-info`, then try again; running pods are not affected",
        retry_after=wait,
    )


def invalid_response(action: str, body: str = "") -> InvalidResponseError:
    """Returns the error of a response that is not one of Kubernetes.

    Args:
        action: See ``translate_errors``.
        body: A description of the response; empty = none.
    """
    return InvalidResponseError(
        f"the response to a request to {action} is not one of Kubernetes{body and f': {body}'}",
        remedy="try again; if it happens again, check the address of the cluster and its proxies",
    )


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
