"""Clients of Vertex AI's services, and their failures in our words."""

import functools
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imgpipe.components.common.errors import (
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.platforms.google_credentials import default_credentials, refused_credentials

_TOKEN_SECONDS = 10
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def service_client(service: str, region: str, endpoint: str = "") -> Any:
    """Returns a client of one of Vertex AI's services, e.g. ``JobServiceClient``.

    Args:
        service: The class of ``google.cloud.aiplatform_v1``.
        region: Whose service is asked.
        endpoint: Another address than Google's, e.g. a private endpoint. ``http://`` is for a server on this
            machine alone, and no credentials are sent there.

    Raises:
        InvalidArgumentError: if credentials would go over plain http, or the region is none.
        UnavailableError: if the client library or the credentials are missing.
    """
    if not endpoint:
        check_region(region)
    try:
        from google.api_core.client_options import ClientOptions
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import aiplatform_v1
    except ImportError:
        raise UnavailableError(
            "the client library of Vertex AI is not installed",
            remedy="pip install 'image-classification-pipeline[vertex]'",
        ) from None
    return getattr(aiplatform_v1, service)(
        # One transport for every address: REST passes proxies and needs no second set of certificates.
        transport="rest",
        credentials=AnonymousCredentials() if is_plain_http(endpoint) else default_credentials()[0],
        client_options=ClientOptions(api_endpoint=endpoint or f"{region}-aiplatform.googleapis.com"),
    )


def check_region(region: str, *, name: str = "--region", where: str = "") -> None:
    """Refuses what is no region: its name becomes part of the address to which credentials are sent.

    Args:
        region: E.g. ``us-central1``.
        name: What the user wrote it as.
        where: The file.

    Raises:
        InvalidArgumentError: naming it.
    """
    if not _REGION.fullmatch(region):
        raise InvalidArgumentError(
            f"{name}={region!r} is not a region" if region else "no region is given",
            where=where if region else "",
            remedy="give the one where your data lies, e.g. --region=us-central1",
        )


def is_plain_http(endpoint: str) -> bool:
    """Tells whether an endpoint is a server of this machine, to which no credentials are sent.

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


def check_credentials(endpoint: str = "") -> None:
    """Gets a token of Google Cloud, in seconds; a server of this machine needs none.

    Args:
        endpoint: As in ``service_client``.

    Raises:
        UnavailableError: if there are no credentials, or they do not work.
        InterruptedRunError: if Google Cloud cannot be reached.
    """
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.transport.requests import Request

    if is_plain_http(endpoint):
        return
    credentials, _ = default_credentials()
    try:
        # By itself the library waits for two minutes.
        credentials.refresh(functools.partial(Request(), timeout=_TOKEN_SECONDS))
    except TransportError as error:
        raise InterruptedRunError(
            f"Google Cloud cannot be reached for a token of your credentials: {type(error).__name__}",
            remedy="check the network of this machine and its proxy (HTTPS_PROXY), and try again",
        ) from None
    except GoogleAuthError as error:
        raise refused_credentials(error) from None


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns the client library's errors in the block into ours.

    Args:
        what: Is being done, for the message, e.g. ``create the job``.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import RequestException

    try:
        yield
    except GoogleAPICallError as error:
        raise error_of_status(
            int(error.grpc_status_code.value[0]) if error.grpc_status_code else _code_of_http(error.code),
            f"Vertex AI refused to {what}: {error.message}",
        ) from None
    except (RetryError, TransportError, RequestException, ConnectionError) as error:
        raise InterruptedRunError(
            f"Vertex AI cannot be reached to {what}: {type(error).__name__}",
            remedy="try again; a job that was started is found again",
        ) from None
    except GoogleAuthError as error:
        raise refused_credentials(error) from None


def error_of_status(code: int, text: str) -> PipelineError:
    """Returns our error for a status of Google's interfaces (``google.rpc.Code``).

    Args:
        code: The status.
        text: What went wrong.
    """
    if code in (3, 9, 11):
        return InvalidArgumentError(text, remedy="correct the request; `imgpipe submit --dry-run` shows it")
    if code == 5:
        return MissingInputError(text, remedy="check the project, the region and the name")
    if code in (7, 16):
        return UnavailableError(
            text,
            remedy="give the account the role roles/aiplatform.user, and the job's service account access to "
            "its buckets; `imgpipe check` names the accounts",
        )
    if code == 8 and "quota" in text.lower():
        return UnavailableError(text, remedy="ask for more quota in that region, or use another region")
    if code == 8:
        return InterruptedRunError(
            text, remedy="the region is short of that machine: try later, another region, or flex-start"
        )
    if code == 4:
        return InvalidArgumentError(
            text, remedy="raise the timeout; the training resumes from its checkpoints"
        )
    if code in (1, 10, 13, 14):
        return InterruptedRunError(text, remedy="try again")
    if code == 6:
        return InvalidArgumentError(text, remedy="use another name")
    return InternalError(text, remedy="see the job's logs")


def _code_of_http(status: int | None) -> int:
    return {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 499: 1, 503: 14, 504: 4}.get(status or 500, 13)
