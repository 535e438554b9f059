"""Asks a model server for the answers to the images of verification.json, and compares them."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from imgpipe.components.common.verification import Verification, WrongAnswerError

_REQUEST_SECONDS = 10.0
_MAX_RESPONSE_BYTES = 64_000_000
# Of TensorFlow Serving, and of proxies: the server or the model is not ready yet, or too busy.
_NOT_READY = (404, 408, 429, 500, 502, 503, 504)
# TensorFlow Serving's, with the reason as JSON, while the model is not loaded and if it fails.
_FROM_SERVER = (404, 500)
# The request did not reach the server: a proxy or a service mesh requires credentials, or redirects.
_NOT_ADMITTED = (301, 302, 303, 307, 308, 401, 403, 407)


class NoAnswerError(Exception):
    """No model has answered; a later request may be answered.

    Attributes:
        is_from_server: Whether the request has reached the model's server.
    """

    def __init__(self, reason: str, *, is_from_server: bool = False) -> None:
        super().__init__(reason)
        self.is_from_server = is_from_server


def check_answers(verification: Verification, address: str, model_name: str, *, host: str = "") -> None:
    """Sends the images to a server, with the signatures serving_default and top_labels.

    Args:
        verification: The images and the answers of the evaluation.
        address: URL of the server.
        model_name: The model's name in the server's URLs.
        host: The Host header; empty = the host of ``address``.

    Raises:
        WrongAnswerError: if the answers are not the evaluation's, or the model rejects the request.
        NoAnswerError: if no model answers within 10 seconds a request.
    """
    instances = verification.instances()
    url = f"{address}/v1/models/{model_name}:predict"
    predictions = _predict(url, {"instances": instances}, host)
    verification.check_probabilities(predictions)
    request = {"signature_name": "top_labels", "instances": instances}
    verification.check_labels(_predict(url, request, host))


def _predict(url: str, body: dict[str, Any], host: str) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 - from the service's status
    if host:
        request.add_header("Host", host)
    try:
        with _opener().open(request, timeout=_REQUEST_SECONDS) as response:
            content = response.read(_MAX_RESPONSE_BYTES)
    except urllib.error.HTTPError as error:
        reason, is_json = _reason(error)
        text = f"{url} responds with status {error.code}: {reason}"
        if error.code in _NOT_READY or error.code in _NOT_ADMITTED:
            is_from_server = is_json and error.code in _FROM_SERVER
            raise NoAnswerError(text, is_from_server=is_from_server) from None
        raise WrongAnswerError(text) from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NoAnswerError(f"{url} does not respond: {cause or type(error).__name__}") from None
    try:
        return json.loads(content)["predictions"]
    except (ValueError, KeyError, TypeError):
        raise WrongAnswerError(f"the response of {url} has no predictions") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows none: a redirect leads to a login page, not to the model."""


def _opener() -> urllib.request.OpenerDirector:
    # The address is inside the cluster: proxies of the environment do not reach it.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _reason(error: urllib.error.HTTPError) -> tuple[str, bool]:
    """Returns the reason, and whether it is a model server's: JSON with the key "error"."""
    try:
        content = error.read(10_000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason), False
    try:
        return str(json.loads(content)["error"]), True
    except (ValueError, KeyError, TypeError):
        return " ".join(content.split())[:200] or str(error.reason), False
