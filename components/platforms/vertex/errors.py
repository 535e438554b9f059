"""Translates the errors of Vertex AI's services into ours."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imgpipe.components.common.errors import (
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidResponseError,
    MissingInputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.platforms.google_credentials import refused_credentials
from imgpipe.components.platforms.responses import TRANSIENT_STATUSES, retry_after_seconds

_CODES_BY_HTTP_STATUS = {401: 16, 403: 7, 404: 5, 409: 6}
_QUOTA_REMEDY = "request more quota in that region, or use another region"
_DENIED_REMEDY = (
    "grant the account the role roles/aiplatform.user, and the job's service account access to its buckets; "
    "`imgpipe check` names the accounts"
)
# By google.rpc.Code.
_ERRORS: dict[int, tuple[type[PipelineError], str]] = {
    4: (InvalidArgumentError, "raise the timeout; a training run resumes from its checkpoints"),
    5: (MissingInputError, "check the project, the region and the name"),
    6: (InvalidArgumentError, "use another name"),
    8: (
        InterruptedRunError,
        "the region is short of that machine: retry later, or use another region or flex-start",
    ),
    **dict.fromkeys(
        (3, 9, 11),
        (InvalidArgumentError, "correct the request; `imgpipe submit --dry-run` shows it"),
    ),
    **dict.fromkeys((7, 16), (UnavailableError, _DENIED_REMEDY)),
    **dict.fromkeys((1, 10, 13, 14), (InterruptedRunError, "try again")),
}


@contextmanager
def translate_errors(
    action: str, *, where: str = "", needs_machines: bool = False, denied_remedy: str = _DENIED_REMEDY
) -> Iterator[None]:
    """Raises our errors in place of the client library's.

    The failure of a request is not that of a job: 429 is a rate limit and 504 a busy service. The failure of
    a long-running operation is translated like a job's.

    Args:
        action: What the block does, for the message, e.g. ``create the job``.
        where: The resource or location, for the message.
        needs_machines: Whether the service may refuse the request for lack of quota for machines.
        denied_remedy: What to do if the account lacks the permission.

    Raises:
        InterruptedRunError: if the service cannot be reached, is busy or restarts.
        InvalidResponseError: if the response is not the service's.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.protobuf.json_format import ParseError
    from requests.exceptions import RequestException

    try:
        yield
    except GoogleAPICallError as error:
        status, headers = int(error.code or 500), getattr(error.response, "headers", None)
        text = f"Vertex AI failed to {action} (HTTP {status}): {service_message(error)}"
        if headers is None and error.grpc_status_code:
            raise error_of_status(int(error.grpc_status_code.value[0]), text, where=where) from None
        wait = retry_after_seconds(headers)
        if status == 429 and needs_machines and not wait and _is_machine_quota(text):
            raise UnavailableError(text, where=where, remedy=_QUOTA_REMEDY) from None
        if status in TRANSIENT_STATUSES or status >= 500:
            raise InterruptedRunError(
                text,
                where=where,
                remedy="try again; jobs and models that were created are reused",
                retry_after=wait,
            ) from None
        code = _CODES_BY_HTTP_STATUS.get(status, 3)
        if code in (7, 16):
            raise UnavailableError(text, where=where, remedy=denied_remedy) from None
        raise error_of_status(code, text, where=where) from None
    except ParseError as error:
        raise InvalidResponseError(
            f"the response to a request to {action} is not one of Vertex AI: {error}",
            where=where,
            remedy="try again; if it happens again, check --endpoint and the proxies in between",
        ) from None
    except (RetryError, TransportError, RequestException, ConnectionError) as error:
        raise InterruptedRunError(
            f"cannot reach Vertex AI to {action}: {type(error).__name__}",
            where=where,
            remedy="try again; jobs and models that were created are reused",
        ) from None
    except GoogleAuthError as error:
        raise refused_credentials(error) from None


def _is_machine_quota(text: str) -> bool:
    """Returns whether a request needs more quota for machines; limits of requests are per minute."""
    return "quota" in text.lower() and "per minute" not in text.lower()


def service_message(error: Any) -> str:
    """Returns the message of a ``GoogleAPICallError`` without the URL that the REST client prepends."""
    return re.sub(r"^[A-Z]+ http\S+: ", "", str(error.message))


def error_of_status(code: int, text: str, *, where: str = "") -> PipelineError:
    """Returns our error for a job or operation that failed with a status code (``google.rpc.Code``).

    Args:
        code: The status code of the job or operation.
        text: What went wrong.
        where: The resource or location.
    """
    error_class, remedy = _ERRORS.get(code, (InternalError, "see the job's logs"))
    if code == 8 and "quota" in text.lower():
        error_class, remedy = UnavailableError, _QUOTA_REMEDY
    return error_class(text, where=where, remedy=remedy)
