"""Connects to Vertex AI: one factory for the clients of all its services."""

import functools
import re
import urllib.parse
from dataclasses import dataclass, field, replace
from typing import Any

from imgpipe.components.common.errors import InterruptedRunError, InvalidArgumentError, UnavailableError
from imgpipe.components.platforms.google_credentials import default_credentials, refused_credentials

_TOKEN_TIMEOUT_SECONDS = 10
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


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

    def client(self, service: str) -> Any:
        """Returns the client of a service, e.g. ``JobServiceClient``; it is created once.

        Args:
            service: Class name in ``google.cloud.aiplatform_v1``.

        Raises:
            InvalidArgumentError: if credentials would be sent over plain http, or the region is not valid.
            UnavailableError: if the client library or the credentials are missing.
        """
        if service not in self._clients:
            self._clients[service] = self._new_client(service)
        return self._clients[service]

    def with_new_connections(self) -> "VertexLocation":
        """Returns the same location with clients of its own."""
        return replace(self)

    def _new_client(self, service: str) -> Any:
        if not self.endpoint:
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
        address = self.endpoint or f"{self.region}-aiplatform.googleapis.com"
        return getattr(aiplatform_v1, service)(
            # REST works with proxies and with every endpoint, and needs no certificates of its own.
            transport="rest",
            credentials=AnonymousCredentials() if is_plain_http(self.endpoint) else default_credentials()[0],
            client_options=ClientOptions(api_endpoint=address),
        )


def wait_for(operation: Any, timeout_seconds: float) -> Any:
    """Returns the result of a long-running operation."""
    return operation.result(timeout=timeout_seconds)


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
    if not endpoint.startswith("http://"):
        return False
    if urllib.parse.urlsplit(endpoint).hostname not in _LOOPBACK:
        raise InvalidArgumentError(
            f"the endpoint {endpoint} would send credentials over plain http", remedy="use https://"
        )
    return True


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
    from google.auth.transport.requests import Request

    if is_plain_http(endpoint):
        return
    credentials, _ = default_credentials()
    try:
        # The library's default timeout is two minutes.
        credentials.refresh(functools.partial(Request(), timeout=_TOKEN_TIMEOUT_SECONDS))
    except TransportError as error:
        raise InterruptedRunError(
            f"cannot reach Google Cloud for a token: {type(error).__name__}",
            remedy="check the network of this machine and its proxy (HTTPS_PROXY), and try again",
        ) from None
    except GoogleAuthError as error:
        raise refused_credentials(error) from None
