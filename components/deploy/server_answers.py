"""Asks a model server for the answers to the images of verification.json, and compares them."""

from http import HTTPStatus
from typing import Any

import requests

from imgpipe.components.common.verification import Verification, WrongAnswerError
from imgpipe.components.platforms.responses import json_object

_REQUEST_SECONDS = 10.0
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
        NoAnswerError: if no model answers within 10 seconds per request.
    """
    instances = verification.instances()
    url = f"{address}/v1/models/{model_name}:predict"
    predictions = _predict(url, {"instances": instances}, host)
    verification.check_probabilities(predictions)
    request = {"signature_name": "top_labels", "instances": instances}
    verification.check_labels(_predict(url, request, host))


def _predict(url: str, body: dict[str, Any], host: str) -> Any:
    try:
        with requests.Session() as session:
            # The address is inside the cluster: proxies of the environment do not reach it.
            session.trust_env = False
            response = session.post(
                url,
                json=body,
                headers={"Host": host} if host else {},
                timeout=_REQUEST_SECONDS,
                # A redirect leads to a login page, not to the model.
                allow_redirects=False,
            )
    except requests.RequestException as error:
        cause = getattr(error.args[0], "reason", None) if error.args else None
        raise NoAnswerError(f"{url} does not respond: {cause or type(error).__name__}") from None
    status, content = response.status_code, json_object(response.content) or {}
    if status == HTTPStatus.OK:
        if "predictions" not in content:
            raise WrongAnswerError(f"the response of {url} has no predictions")
        return content["predictions"]
    # A model server's reason is JSON with the key "error".
    reason = content.get("error") or " ".join(response.text.split())[:200] or response.reason
    text = f"{url} responds with status {status}: {reason}"
    if status in _NOT_READY or status in _NOT_ADMITTED:
        raise NoAnswerError(text, is_from_server="error" in content and status in _FROM_SERVER)
    raise WrongAnswerError(text)
