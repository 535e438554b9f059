"""Translates the errors of Vertex AI's services into ours."""

import re
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
from imgpipe.components.platforms.google_credentials import refused_credentials

_CODES_BY_HTTP_STATUS = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 499: 1, 503: 14, 504: 4}


@contextmanager
def translate_errors(action: str, *, where: str = "") -> Iterator[None]:
    """Raises our errors in place of the client library's.

    Args:
        action: What the block does, for the message, e.g. ``create the job``.
        where: The resource or location, for the message.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import RequestException

    try:
        yield
    except GoogleAPICallError as error:
        code = error.grpc_status_code
        raise error_of_status(
            int(code.value[0]) if code else _CODES_BY_HTTP_STATUS.get(error.code or 500, 13),
            f"Vertex AI failed to {action} (HTTP {int(error.code or 500)}): {service_message(error)}",
            where=where,
        ) from None
    except (RetryError, TransportError, RequestException, ConnectionError) as error:
        raise InterruptedRunError(
            f"cannot reach Vertex AI to {action}: {type(error).__name__}",
            where=where,
            remedy="try again; jobs and models that were created are reused",
        ) from None
    except GoogleAuthError as error:
        raise refused_credentials(error) from None


def service_message(error: Any) -> str:
    """Returns the message of a ``GoogleAPICallError`` without the URL that the REST client prepends."""
    return re.sub(r"^[A-Z]+ http\S+: ", "", str(error.message))


def error_of_status(code: int, text: str, *, where: str = "") -> PipelineError:
    """Returns our error for a status code of Google's APIs (``google.rpc.Code``).

    Args:
        code: The status code of a request or of a failed job.
        text: What went wrong.
        where: The resource or location.
    """
    error_class: type[PipelineError] = InternalError
    remedy = "see the job's logs"
    if code in (3, 9, 11):
        error_class, remedy = InvalidArgumentError, "correct the request; `imgpipe submit --dry-run` shows it"
    elif code == 5:
        error_class, remedy = MissingInputError, "check the project, the region and the name"
    elif code in (7, 16):
        error_class = UnavailableError
        remedy = (
            "grant the account the role roles/aiplatform.user, and the job's service account access to its "
            "buckets; `imgpipe check` names the accounts"
        )
    elif code == 8 and "quota" in text.lower():
        error_class, remedy = UnavailableError, "request more quota in that region, or use another region"
    elif code == 8:
        error_class = InterruptedRunError
        remedy = "the region is short of that machine: retry later, or use another region or flex-start"
    elif code == 4:
        error_class = InvalidArgumentError
        remedy = "raise the timeout; a training resumes from its checkpoints"
    elif code in (1, 10, 13, 14):
        error_class, remedy = InterruptedRunError, "try again"
    elif code == 6:
        error_class, remedy = InvalidArgumentError, "use another name"
    return error_class(text, where=where, remedy=remedy)
