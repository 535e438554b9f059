"""A bucket whose requests go through a proxy that injects faults."""

import http
import http.client
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.http_server import Handler, serve

BUCKET = "photos"
# Faults: an overloaded server, a connection that is reset in the middle of the content, and content that ends
# early as if it were complete. Any other fault is a function that gets the handler and answers instead.
UNAVAILABLE, RESET, SHORT = "503", "reset", "short"
_NOT_FORWARDED = ("content-length", "transfer-encoding", "connection", "server", "date")


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
    server = bucket.address.removeprefix("http://")

    class Proxy(Handler):
        def forward(self) -> None:
            body = self.read_body()
            if len(body) < int(self.headers.get("Content-Length", 0)):
                # The client was terminated. The emulator, which has one thread, would wait for the rest.
                self.close_connection = True
                return
            bucket.requests.append((self.command, self.path))
            fault = bucket.fault(self.command, self.path)
            if callable(fault):
                fault(self)
                return
            if fault == UNAVAILABLE:
                self.send(503)
                return
            connection = http.client.HTTPConnection(server)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            bucket.sent.append(len(content))
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _NOT_FORWARDED:
                    self.send_header(name, value)
            if bucket.scheme == "gs" and response.status == http.HTTPStatus.PARTIAL_CONTENT:
                # As Cloud Storage does, and the emulator does not:
                # https://docs.cloud.google.com/storage/docs/xml-api/reference-headers
                self.send_header("X-Goog-Generation", "1")
            length = len(content)
            if self.command == "HEAD":
                length = int(response.getheader("Content-Length", "0"))
            if fault == SHORT:
                length = length if self.command == "HEAD" else length // 2
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if fault:
                self.wfile.write(content[: len(content) // 2])
                if fault == RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = forward  # noqa: N815

    with serve(Proxy) as port:
        yield f"http://127.0.0.1:{port}"


def free_port() -> int:
    """Returns a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
