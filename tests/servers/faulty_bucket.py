"""A bucket whose requests go through a proxy that injects faults."""

import http
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.faults import Fault, start_fault_proxy
from tests.servers.http_server import Handler

BUCKET = "photos"
# Faults: an overloaded server, a connection that is reset in the middle of the content, and content that ends
# early as if it were complete. Any other fault is a function that gets the handler and answers instead.
UNAVAILABLE, RESET, SHORT = "503", "reset", "short"
_FAULTS = {
    UNAVAILABLE: Fault("status"),
    RESET: Fault("cut", executed=True),
    SHORT: Fault("short", executed=True),
}


@dataclass
class FaultyBucket(ABC):
    """The bucket ``photos`` behind a proxy that injects faults.

    Attributes:
        scheme: The scheme of its URIs.
        address: The address of the server itself, without faults.
        fault: Called with the method and the path of each request; returns a fault, or "" for none.
        requests: Method and path of every request.
        sent: The number of bytes of content of every answer.
    """

    scheme: str
    address: str
    fault: Callable[[str, str], str | Callable[[Handler], None]] = lambda *_: ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{BUCKET}"

    @abstractmethod
    def put(self, name: str, content: bytes) -> str:
        """Writes an object and returns its URI."""

    @abstractmethod
    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Returns the objects with a prefix, without it."""

    @abstractmethod
    def reads(self, method: str, path: str) -> bool:
        """Whether a request reads an object's content."""

    @abstractmethod
    def writes(self, method: str, path: str) -> bool:
        """Whether a request writes an object."""

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Returns the objects with a prefix, without it, and turns faults off."""
        self.fault = lambda *_: ""
        return self.objects(prefix)


@contextmanager
def proxied(bucket: FaultyBucket) -> Iterator[str]:
    """Yields the address of the proxy."""

    def choose(method: str, path: str) -> Fault | Callable[[Handler], None] | None:
        bucket.requests.append((method, path))
        fault = bucket.fault(method, path)
        return _FAULTS.get(fault) if isinstance(fault, str) else fault

    def on_response(status: int, content: bytes, headers: dict[str, str]) -> None:
        bucket.sent.append(len(content))
        if bucket.scheme == "gs" and status == http.HTTPStatus.PARTIAL_CONTENT:
            # As Cloud Storage does, and the emulator does not:
            # https://docs.cloud.google.com/storage/docs/xml-api/reference-headers
            headers["X-Goog-Generation"] = "1"

    with start_fault_proxy(bucket.address, choose, on_response) as proxy:
        yield proxy.address


def free_port() -> int:
    """Returns a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
