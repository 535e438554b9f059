"""Cloud Storage on loopback: an emulator behind a proxy that spoils requests when told to."""

import http.client
import http.server
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from gcp_storage_emulator.server import create_server
from google.cloud import storage

from imgpipe.components.storage import cloud_storage

BUCKET = "photos"
# What a request may meet on its way: an overloaded server, a connection that is reset in the middle of the
# content, and content that ends early as if it were whole.
UNAVAILABLE, RESET, SHORT = "503", "reset", "short"


@dataclass
class Cloud:
    """An emulator of Cloud Storage behind a proxy that spoils requests.

    Attributes:
        fault: Called with the method and the path of each request; returns a fault or an empty text.
        requests: Method and path of every request.
    """

    address: str
    fault: Callable[[str, str], str] = lambda *_: ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> str:
        """Writes an object and returns its URI."""
        self._bucket.blob(name).upload_from_string(content)
        return f"gs://{BUCKET}/{name}"

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Returns the objects below a prefix; from now on no request meets a fault."""
        self.fault = lambda *_: ""
        return {
            blob.name.removeprefix(prefix): blob.download_as_bytes()
            for blob in self._bucket.list_blobs(prefix=prefix)
        }

    @property
    def _bucket(self) -> storage.Bucket:
        return storage.Client(
            project="test",
            client_options={"api_endpoint": self.address},
            credentials=storage.Client.create_anonymous_client()._credentials,
        ).bucket(BUCKET)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def emulator() -> Iterator[tuple[int, object]]:
    port = _free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield port, server
    server.stop()


@pytest.fixture
def cloud(emulator: tuple[int, object], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Cloud Storage with an empty bucket ``photos``; the code under test reaches it through the proxy."""
    port, server = emulator
    server.wipe(keep_buckets=True)
    made = Cloud(f"http://127.0.0.1:{port}")

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def handle_request(self) -> None:
            body = self._body()
            made.requests.append((self.command, self.path))
            fault = made.fault(self.command, self.path)
            if fault == UNAVAILABLE:
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            onward = http.client.HTTPConnection("127.0.0.1", port)
            onward.request(self.command, self.path, body, dict(self.headers))
            answer = onward.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (
                    "content-length",
                    "transfer-encoding",
                    "connection",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) // 2 if fault == SHORT else len(content)))
            self.end_headers()
            if fault:
                self.wfile.write(content[: len(content) // 2])
                if fault == RESET:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        setattr(Proxy, f"do_{method}", Proxy.handle_request)
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setattr(cloud_storage, "FIRST_PAUSE_SECONDS", 0.01)
    yield made
    proxy.shutdown()
    proxy.server_close()
