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
from imgpipe.components.platforms.responses import TRANSIENT_STATUSES, retry_after_seconds

# The URL often contains a token: it comes from a Secret, not from an argument, and is never logged.
WEBHOOK_VARIABLE, RUN_VARIABLE = "IMGPIPE_WEBHOOK_URL", "IMGPIPE_RUN_ID"
# Set in the steps of a pipeline with the step notify.
HAS_NOTIFY_VARIABLE = "IMGPIPE_HAS_NOTIFY"
SUCCEEDED, FAILED, CANCELLED, UNKNOWN = "SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN"
# What a step logs after it has reported that the run was stopped; the step notify looks for it.
STOP_REPORTED = "the webhook was called: the run was stopped"
_TIMEOUT_SECONDS = 10
# Before the second and the third attempt, unless the server asks for a longer pause.
_PAUSES_SECONDS = (1.0, 4.0)
_MAX_PAUSE_SECONDS = 30.0


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


def has_webhook() -> bool:
    """Returns whether there is a URL in the environment."""
    return bool(_url())


def report_end(
    state: str,
    step: str,
    *,
    problem: str = "",
    remedy: str = "",
    retries: bool = True,
    even_with_notify: bool = False,
) -> bool:
    """Posts the end of the run as JSON to the URL in the environment, if there is one.

    The fields are ``text`` (one line, which chats show), ``state``, ``run_id``, ``step``, ``problem`` and
    ``remedy``. A failure is a warning in the log, and never an error.

    Args:
        state: ``SUCCEEDED``, ``FAILED``, ``CANCELLED`` or ``UNKNOWN``.
        step: The last step, or the one that failed or was cancelled.
        problem: Why it failed.
        remedy: What to do.
        retries: Whether a request that fails is tried again.
        even_with_notify: Whether to post also in a run whose last step, notify, reports its end.

    Returns:
        Whether the server has accepted it.
    """
    url = _url()
    if not url or (os.environ.get(HAS_NOTIFY_VARIABLE) and not even_with_notify):
        return False
    run_id = os.environ.get(RUN_VARIABLE, "")
    ended = {
        SUCCEEDED: "succeeded",
        FAILED: f"failed in {step}: {problem}",
        CANCELLED: f"was cancelled in {step}",
        UNKNOWN: f"has ended; it is not known how: {problem}",
    }[state]
    content: dict[str, Any] = {
        "text": f"imgpipe run {run_id} {ended}",
        "state": state,
        "run_id": run_id,
        "step": step,
        "problem": problem,
        "remedy": remedy,
    }
    reason = ""
    for pause in (*(_PAUSES_SECONDS if retries else ()), None):
        reason, can_retry, retry_after = _post(url, json.dumps(content).encode())
        if not reason:
            return True
        if not can_retry or pause is None:
            break
        time.sleep(min(max(pause, retry_after), _MAX_PAUSE_SECONDS))
    log_event("webhook_failed", f"the webhook could not be called: {reason}", severity="WARNING")
    return False


class _NotMoved(urllib.request.HTTPRedirectHandler):
    """Follows redirects to a response, but not those to a new address: there, the POST would become a GET."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        has_moved = code == 301 or newurl.partition(":")[2] == req.full_url.partition(":")[2]
        return None if has_moved else super().redirect_request(req, fp, code, msg, headers, newurl)


def _post(url: str, content: bytes) -> tuple[str, bool, float]:
    """Returns why a request failed ("" = it did not), whether another can succeed, and after which pause."""
    try:
        request = urllib.request.Request(  # noqa: S310 - check_webhook has checked the scheme
            url, content, {"Content-Type": "application/json"}
        )
        with urllib.request.build_opener(_NotMoved).open(request, timeout=_TIMEOUT_SECONDS):
            return "", False, 0.0
    except urllib.error.HTTPError as error:
        can_retry = error.code in TRANSIENT_STATUSES
        moved = ", its address has moved" if 300 <= error.code < 400 else ""
        return f"status {error.code}{moved}", can_retry, retry_after_seconds(error.headers)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, True, 0.0
    except ValueError:
        return "its URL is not valid", False, 0.0


def _url() -> str:
    return os.environ.get(WEBHOOK_VARIABLE, "").strip()
