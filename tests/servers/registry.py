"""A registry of images on loopback: as much of the OCI distribution protocol as pushing and pulling need.

It keeps every blob and manifest under its digest, and refuses what does not have the digest that was
announced.
"""

import hashlib
import http.server
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass
class Registry:
    """What was pushed.

    Attributes:
        address: Host and port.
        manifests: By repository and tag or digest: media type and content.
        blobs: By digest.
    """

    address: str = ""
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@contextmanager
def registry() -> Iterator[Registry]:
    """Runs a registry until the block ends."""
    kept = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
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

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/v2/":
                return self._answer(200)
            if found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
                media_type, content = kept.manifests.get((found[1], found[2]), ("", b""))
                if not content:
                    return self._answer(404)
                return self._answer(
                    200,
                    content,
                    Content_Type=media_type,
                    Docker_Content_Digest=_digest(content),
                    Content_Length=str(len(content)),
                )
            found = re.fullmatch(r"/v2/.+/blobs/(.+)", path)
            if not found or found[1] not in kept.blobs:
                return self._answer(404)
            content = kept.blobs[found[1]]
            return self._answer(
                200, content, Docker_Content_Digest=found[1], Content_Length=str(len(content))
            )

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            number = uuid.uuid4().hex
            kept.uploads[number] = self._body()
            repository = re.fullmatch(r"/v2/(.+)/blobs/uploads/", urlsplit(self.path).path)[1]
            self._answer(202, Location=f"/v2/{repository}/blobs/uploads/{number}", Range="0-0")

        def do_PATCH(self) -> None:
            path = urlsplit(self.path).path
            number = path.rpartition("/")[2]
            kept.uploads[number] += self._body()
            self._answer(202, Location=path, Range=f"0-{len(kept.uploads[number]) - 1}")

        def do_PUT(self) -> None:
            parts, content = urlsplit(self.path), self._body()
            if found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", parts.path):
                digest = _digest(content)
                for reference in (found[2], digest):
                    kept.manifests[found[1], reference] = (self.headers["Content-Type"], content)
                return self._answer(201, Location=parts.path, Docker_Content_Digest=digest)
            content = kept.uploads.pop(parts.path.rpartition("/")[2]) + content
            (digest,) = parse_qs(parts.query)["digest"]
            if _digest(content) != digest:
                return self._answer(400)
            kept.blobs[digest] = content
            return self._answer(201, Location=parts.path, Docker_Content_Digest=digest)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    kept.address = f"127.0.0.1:{server.server_port}"
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
