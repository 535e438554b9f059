"""Connects to Vertex AI: one factory for the clients of all its services."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    UnavailableError,
)
from imgpipe.components.common.urls import is_plain_http_to_other_machine
from imgpipe.components.platforms import responses
from imgpipe.components.platforms.google_credentials import (
    default_credentials,
    refresh,
    refused_credentials,
)
from imgpipe.components.platforms.polling import poll
from imgpipe.components.platforms.responses import describe_body, json_object
from imgpipe.components.platforms.vertex.errors import translate_errors

_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_OPERATION_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class VertexLocation:
    """A project and region of Vertex AI, with the clients of its services.

    Attributes:
        project: Project id.
        region: E.g. ``us-central1``.
        endpoint: Replaces the region's own address, e.g. with a private endpoint. ``http://`` is allowed only
            for a server on this machine; no credentials are sent to it.
    """

    project: str
    region: str
    endpoint: str = ""
    _clients: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def parent(self) -> str:
        """The resource name of the location."""
        return f"projects/{self.project}/locations/{self.region}"

    def client(self, service: str, address: str = "") -> Any:
        """Returns the client of a service, e.g. ``JobServiceClient``; it is created once.

        Args:
            service: Class name in ``google.cloud.aiplatform_v1``.
            address: The address of a dedicated endpoint; empty = that of the location.

        Raises:
            InvalidArgumentError: if credentials would be sent over plain http, or the region is not valid.
            UnavailableError: if the client library or the credentials are missing.
        """
        key = f"{service} {address}"
        if key not in self._clients:
            self._clients[key] = self._new_client(service, address or self.endpoint)
        return self._clients[key]

    def with_new_connections(self) -> "VertexLocation":
        """Returns the same location with clients of its own."""
        return replace(self)

    def _new_client(self, service: str, endpoint: str) -> Any:
        if not endpoint:
            check_region(self.region)
        try:
            from google.api_core.client_options import ClientOptions
            from google.auth.credentials import AnonymousCredentials
            from google.cloud import aiplatform_v1
        except ImportError:
            raise UnavailableError(
                "the client library of Vertex AI is not installed",
                remedy="pip install 'image-classification-pipeline[vertex]'",
            ) from None
        address = endpoint or f"{self.region}-aiplatform.googleapis.com"
        client = getattr(aiplatform_v1, service)(
            # REST works with proxies and with every endpoint, and needs no certificates of its own.
            transport="rest",
            credentials=AnonymousCredentials() if is_plain_http(endpoint) else default_credentials()[0],
            client_options=ClientOptions(api_endpoint=address),
        )
        # The library's own requests wait for a response for ever.
        check_responses(client.transport._session)
        if hasattr(client.transport, "operations_client"):
            check_responses(client.transport.operations_client.transport._session)
        return client


def wait_for(operation: Any, timeout_seconds: float, client: Any) -> Any:
    """Returns the result of a long-running operation.

    Args:
        operation: The operation.
        timeout_seconds: Time after which its cancellation is requested.
        client: The client that started it. Over REST, ``operation.cancel()`` is a KeyError.

    Raises:
        GoogleAPICallError: the operation's own error, if it failed.
        CheckFailedError: if it has not ended in time; its cancellation is requested.
        InterruptedRunError: if Vertex AI does not respond for an hour.
    """
    name = operation.operation.name

    def has_ended() -> bool:
        with translate_errors(f"wait for {name}"):
            return bool(operation.done())

    try:
        poll(has_ended, bool, max_pause=_OPERATION_PAUSE_SECONDS, timeout=timeout_seconds)
    except TimeoutError:
        try:
            with translate_errors(f"cancel {name}"):
                client.cancel_operation(request={"name": name}, timeout=responses.READ_TIMEOUT_SECONDS)
            state = "its cancellation was requested"
        except (InterruptedRunError, InvalidArgumentError, UnavailableError) as error:
            state = f"it continues: {error.problem}"
        raise CheckFailedError(
            f"the operation has not ended within {timeout_seconds:g} s; {state}",
            where=name,
            remedy="raise deploy_timeout_seconds; see the endpoint with `gcloud ai endpoints describe`, and "
            "undo what was deployed with `gcloud ai endpoints undeploy-model`",
        ) from None
    return operation.result(timeout=0)


def check_responses(session: Any) -> None:
    """Gives the requests of a ``requests`` session a time limit, and lets only JSON objects pass.

    The session then raises InvalidResponseError for any other response with status 200. An error without
    Google's description, e.g. of a proxy, gets one, which the client library cannot do without.
    """
    for adapter in session.adapters.values():
        adapter.send = functools.partial(_send, adapter.send)


def _send(send: Callable[..., Any], request: Any, *, timeout: Any = None, **options: Any) -> Any:
    limit = (responses.CONNECT_TIMEOUT_SECONDS, responses.READ_TIMEOUT_SECONDS)
    response = send(request, timeout=timeout or limit, **options)
    content = json_object(response.content)
    if content is None and 200 <= response.status_code < 300:
        raise InvalidResponseError(
            f"the response to {request.method} {request.url.partition('?')[0]} is not one of Google Cloud: "
            f"{describe_body(response.content)}",
            remedy="try again; if it happens again, check --endpoint and the proxies in between",
        )
    if response.status_code >= 400 and not isinstance((content or {}).get("error"), dict):
        error = {"message": f"{response.reason}: {describe_body(response.content)}"}
        response._content = json.dumps({"error": error}).encode()
    return response


def check_region(region: str, *, name: str = "--region", where: str = "") -> None:
    """Rejects an invalid region: it becomes part of the address to which credentials are sent.

    Args:
        region: E.g. ``us-central1``.
        name: How the user wrote the argument.
        where: The file that contains it.

    Raises:
        InvalidArgumentError: if the region is empty or not valid.
    """
    if not _REGION.fullmatch(region):
        raise InvalidArgumentError(
            f"{name}={region!r} is not a region" if region else "no region is given",
            where=where if region else "",
            remedy="use the region of your data, e.g. --region=us-central1",
        )


def is_plain_http(endpoint: str) -> bool:
    """Returns whether an endpoint is a server on this machine, which gets no credentials.

    Raises:
        InvalidArgumentError: for ``http://`` to any other machine.
    """
    if is_plain_http_to_other_machine(endpoint):
        raise InvalidArgumentError(
            f"the endpoint {endpoint} would send credentials over plain http", remedy="use https://"
        )
    return endpoint.lower().startswith("http://")


def authorized_session(endpoint: str = "") -> Any:
    """Returns an HTTP session with the user's credentials; without any for a server on this machine."""
    import requests
    from google.auth.transport.requests import AuthorizedSession

    return requests.Session() if is_plain_http(endpoint) else AuthorizedSession(default_credentials()[0])


def check_credentials(endpoint: str = "") -> None:
    """Requests a Google Cloud token, to report missing credentials in seconds.

    Args:
        endpoint: As in ``VertexLocation``; a server on this machine needs no credentials.

    Raises:
        UnavailableError: if there are no credentials, or they are not valid.
        InterruptedRunError: if Google Cloud cannot be reached.
    """
    from google.auth.exceptions import GoogleAuthError, TransportError

    if is_plain_http(endpoint):
        return
    credentials, _ = default_credentials()
    try:
        refresh(credentials)
    except TransportError as error:
        raise InterruptedRunError(
            f"cannot reach Google Cloud for a token: {type(error).__name__}",
            remedy="check the network of this machine and its proxy (HTTPS_PROXY), and try again",
        ) from None
    except GoogleAuthError as error:
        raise refused_credentials(error) from None
