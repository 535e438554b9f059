"""What is told where Google Cloud has no credentials that work."""

import os
from typing import Any

from imgpipe.components.common.errors import UnavailableError

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = "gcloud auth application-default login"


_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


def default_credentials() -> tuple[Any, str]:
    """Returns the application's default credentials and their project, which may be empty.

    Raises:
        UnavailableError: if there are none, or what the variable names cannot be read as such.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    # What is written in a file that is none of credentials, the library does not expect.
    except (GoogleAuthError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise no_credentials(error) from None
    return credentials, project or ""


def no_credentials(error: Exception) -> UnavailableError:
    """Returns the error of a machine without credentials for Google Cloud.

    Args:
        error: What the client library said. It is told where a variable names credentials: those were meant,
            and a login would not be heeded.
    """
    if named_credentials():
        return UnavailableError(
            f"{VARIABLE}={named_credentials()!r} gives no credentials: {_reason(error)}",
            remedy=f"name a file with credentials there; or unset the variable, and {LOGIN}",
        )
    return UnavailableError(
        "there are no credentials for Google Cloud here",
        remedy=f"{LOGIN}; in a step of a pipeline, give its service account access",
    )


def refused_credentials(error: Exception) -> UnavailableError:
    """Returns the error of credentials that are there and do not work.

    Args:
        error: What the client library said.
    """
    if named_credentials():
        return UnavailableError(
            f"the credentials in {VARIABLE}={named_credentials()!r} do not work: {_reason(error)}",
            remedy=f"name other credentials there; or unset the variable, and {LOGIN}",
        )
    return UnavailableError(
        f"the credentials for Google Cloud do not work: {_reason(error)}",
        remedy=f"{LOGIN}; in a step of a pipeline, give its service account access",
    )


def named_credentials() -> str:
    """Returns the file that the variable names; empty if it names none."""
    return os.environ.get(VARIABLE, "")


def _reason(error: Exception) -> str:
    from google.auth.exceptions import GoogleAuthError

    text = str(error.args[0]) if isinstance(error, GoogleAuthError) and error.args else str(error)
    return (text or type(error).__name__)[:300]
