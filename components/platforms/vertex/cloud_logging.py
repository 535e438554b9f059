"""Reads the logs of a project from Cloud Logging."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from imgpipe.components.platforms.polling import retry
from imgpipe.components.platforms.vertex.client import (
    VertexLocation,
    authorized_session,
    check_responses,
    is_plain_http,
)
from imgpipe.components.platforms.vertex.errors import translate_errors

_ADDRESS = "https://logging.googleapis.com"
# The API's limit.
_PAGE_SIZE = 1000
_REMEDY = "grant your account the role roles/logging.viewer"


class CloudLogging:
    """The logs of a location's project; a location on this machine has them itself."""

    def __init__(self, location: VertexLocation) -> None:
        self._location = location

    def entries(self, log_filter: str, since: str = "") -> Iterator[dict[str, Any]]:
        """Yields the entries from a time on (inclusive), oldest first.

        Args:
            log_filter: A filter of Cloud Logging.
            since: ISO 8601; empty = from the beginning.

        Raises:
            UnavailableError: if the account may not read logs.
            InterruptedRunError: if Cloud Logging does not respond.
        """
        after = f' AND timestamp>="{since}"' if since else ""
        request: dict[str, Any] = {
            "resourceNames": [f"projects/{self._location.project}"],
            "filter": f"{log_filter}{after}",
            "orderBy": "timestamp asc",
            "pageSize": _PAGE_SIZE,
        }
        while True:
            page = retry(lambda: self._page(request))
            yield from page.get("entries", [])
            if not page.get("nextPageToken"):
                return
            request["pageToken"] = page["nextPageToken"]

    def _page(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from google.api_core import exceptions

        endpoint = self._location.endpoint
        address = f"{endpoint if is_plain_http(endpoint) else _ADDRESS}/v2/entries:list"
        with translate_errors("read the logs", denied_remedy=_REMEDY):
            response = self._session.post(address, json=request)
            if response.status_code != 200:
                raise exceptions.from_http_response(response)
        return dict(response.json())

    @cached_property
    def _session(self) -> Any:
        session = authorized_session(self._location.endpoint)
        check_responses(session)
        return session
