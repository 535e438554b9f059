"""Rules for the responses of all services: which statuses are transient, and when to try again."""

import json
import time
from collections.abc import Mapping
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

# Seconds to connect, and between two parts of a response.
CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 10, 60
# The service, or a proxy in front of it, is overloaded or restarts.
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)


def retry_after_seconds(headers: "Mapping[str, str] | Message[str, str] | None") -> float:
    """Returns the seconds in ``Retry-After``, which may also be a time; 0 if it is missing or invalid.

    A time is compared with the response's own ``Date``, if possible: the clocks may differ.
    """
    value = (headers or {}).get("Retry-After") or ""
    try:
        return max(0.0, float(int(value)))
    except ValueError:
        pass
    try:
        now = (headers or {}).get("Date")
        return max(
            0.0,
            parsedate_to_datetime(value).timestamp()
            - (parsedate_to_datetime(now).timestamp() if now else time.time()),
        )
    except (TypeError, ValueError, OverflowError):
        return 0.0


def json_object(body: bytes | str) -> dict[str, Any] | None:
    """Returns the JSON object in a response's body, or None if it contains anything else."""
    try:
        content = json.loads(body)
    # A deeply nested list exceeds the recursion limit.
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_page(text: str) -> bool:
    """Returns whether a text that is expected to be a log is an HTML page, e.g. of a login."""
    return text.lstrip()[:9].lower().startswith(("<!doctype", "<html"))


def describe_body(body: bytes | str) -> str:
    """Returns what a response contains instead of a JSON object, e.g. ``an HTML page``."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    text = text.strip()
    if not text:
        return "nothing"
    if text[:1] == "<":
        return "an HTML page"
    return repr(text[:60])
