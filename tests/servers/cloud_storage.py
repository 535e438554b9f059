"""Cloud Storage on loopback: an emulator behind a proxy that injects faults."""

import http.client
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from gcp_storage_emulator.server import create_server
from google.cloud import storage

from imgpipe.components.storage import cloud_storage
from tests.servers.http_server import Handler, serve

BUCKET = "photos"
# Faults: an overloaded server, a connection that is reset in the middle of the content, and content that ends
# early as if it were complete.
UNAVAILABLE, RESET, SHORT = "503", "reset", "short"


@dataclass
class Cloud:
    """An emulator of Cloud Storage behind a proxy that injects faults.

    Attributes:
        fault: Called with the method and the path of each request; returns a fault, or "" for none.
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
        """Returns the objects with a prefix, without it, and turns faults off."""
        self.fault = lambda *_: ""
        return self.objects(prefix)

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Returns the objects with a prefix, without it."""
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
    bucket = Cloud(f"http://127.0.0.1:{port}")

    class Proxy(Handler):
        def forward(self) -> None:
            body = self.read_body()
            bucket.requests.append((self.command, self.path))
            fault = bucket.fault(self.command, self.path)
            if fault == UNAVAILABLE:
                self.send(503)
                return
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            self.send_response(response.status)
            for name, value in response.getheaders():
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

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = forward  # noqa: N815

    with serve(Proxy) as proxy_port:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{proxy_port}")
        monkeypatch.setattr(cloud_storage, "FIRST_PAUSE_SECONDS", 0.01)
        yield bucket
