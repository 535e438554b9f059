"""Reports the end of a run to a URL of the user's, e.g. an incoming webhook of a chat."""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.log import log_event

# The URL often contains a token: it comes from a Secret, not from an argument, and is never logged.
WEBHOOK_VARIABLE, RUN_VARIABLE = "IMGPIPE_WEBHOOK_URL", "IMGPIPE_RUN_ID"
SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"
_TIMEOUT_SECONDS = 10
# Before the second and the third attempt.
_PAUSES_SECONDS = (1.0, 4.0)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def check_webhook() -> None:
    """Checks the URL in the environment, if there is one.

    Raises:
        InvalidArgumentError: if it is not an http(s) URL.
    """
    url = _url()
    parts = urllib.parse.urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise InvalidArgumentError(
            "the entry url of webhook_secret is not a URL",
            remedy="write the whole address, beginning with https://",
        )


def report_end(state: str, step: str, *, problem: str = "", remedy: str = "") -> None:
    """Posts the end of the run as JSON to the URL in the environment, if there is one.

    The fields are ``text`` (one line, which chats show), ``state``, ``run_id``, ``step``, ``problem`` and
    ``remedy``. A failure is a warning in the log, and never an error.

    Args:
        state: ``SUCCEEDED`` or ``FAILED``.
        step: The last step, or the one that failed.
        problem: Why it failed.
        remedy: What to do.
    """
    url = _url()
    if not url:
        return
    run_id = os.environ.get(RUN_VARIABLE, "")
    ended = "succeeded" if state == SUCCEEDED else f"failed in {step}: {problem}"
    content: dict[str, Any] = {
        "text": f"imgpipe run {run_id} {ended}",
        "state": state,
        "run_id": run_id,
        "step": step,
        "problem": problem,
        "remedy": remedy,
    }
    reason = ""
    for pause in (*_PAUSES_SECONDS, None):
        reason, can_retry = _post(url, json.dumps(content).encode())
        if not reason:
            return
        if not can_retry or pause is None:
            break
        time.sleep(pause)
    log_event("webhook_failed", f"the webhook could not be called: {reason}", severity="WARNING")


def _post(url: str, content: bytes) -> tuple[str, bool]:
    """Returns why a request failed, "" if it succeeded, and whether another one can succeed."""
    try:
        request = urllib.request.Request(  # noqa: S310 - check_webhook has checked the scheme
            url, content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310 - as above
            return "", False
    except urllib.error.HTTPError as error:
        return f"status {error.code}", error.code in _TRANSIENT
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, True
    except ValueError:
        return "its URL is not valid", False


def _url() -> str:
    return os.environ.get(WEBHOOK_VARIABLE, "").strip()
