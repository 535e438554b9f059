"""Google Cloud credentials, and the errors of missing or invalid ones."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from imgpipe.components.common.errors import UnavailableError

VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
LOGIN = "gcloud auth application-default login"
_TOKEN_TIMEOUT_SECONDS = 10
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_impersonated_account: ContextVar[str] = ContextVar("impersonated_account", default="")


def default_credentials() -> tuple[Any, str]:
    """Returns the application default credentials and their project, which may be empty.

    Raises:
        UnavailableError: if there are none, or the file that the variable names cannot be read.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    # The library raises these for a file that does not contain credentials.
    except (GoogleAuthError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _error(
            f"{VARIABLE}={named_credentials()!r} gives no credentials: {_reason(error)}",
            "there are no credentials for Google Cloud",
        ) from None
    if account := _impersonated_account.get():
        from google.auth import impersonated_credentials

        credentials = impersonated_credentials.Credentials(credentials, account, _SCOPES)
    return credentials, project or ""


@contextmanager
def impersonating(account: str) -> Iterator[None]:
    """Makes ``default_credentials`` in the block return those of a service account; empty = one's own."""
    token = _impersonated_account.set(account)
    try:
        yield
    finally:
        _impersonated_account.reset(token)


def refresh(credentials: Any) -> None:
    """Requests a new token; the library's own time limit is two minutes.

    Raises:
        GoogleAuthError: if the credentials are not valid; TransportError if Google Cloud cannot be reached.
    """
    from google.auth.transport.requests import Request

    credentials.refresh(functools.partial(Request(), timeout=_TOKEN_TIMEOUT_SECONDS))


def account_of_step() -> str:
    """Returns the service account of this machine; "" outside Google Cloud, or if it is not known."""
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials, _ = default_credentials()
        refresh(credentials)
    except (GoogleAuthError, UnavailableError):
        return ""
    account = str(getattr(credentials, "service_account_email", ""))
    return account if "@" in account else ""


def refused_credentials(error: Exception) -> UnavailableError:
    """Returns the error for credentials that do not work.

    Args:
        error: The client library's error.
    """
    return _error(
        f"the credentials in {VARIABLE}={named_credentials()!r} do not work: {_reason(error)}",
        f"the credentials for Google Cloud do not work: {_reason(error)}",
    )


def named_credentials() -> str:
    """Returns the file that the variable names; empty if it is not set."""
    return os.environ.get(VARIABLE, "")


def _error(problem_of_file: str, problem: str) -> UnavailableError:
    """Returns the first problem if the variable names a file, which overrides a login; else the second."""
    if named_credentials():
        remedy = f"set it to another file with credentials; or unset it, and run {LOGIN}"
        return UnavailableError(problem_of_file, remedy=remedy)
    remedy = f"run {LOGIN}; in a pipeline step, grant its service account access"
    return UnavailableError(problem, remedy=remedy)


def _reason(error: Exception) -> str:
    from google.auth.exceptions import GoogleAuthError

    text = str(error.args[0]) if isinstance(error, GoogleAuthError) and error.args else str(error)
    return (text or type(error).__name__)[:300]
