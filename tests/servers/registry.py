"""An image registry on loopback, with the parts of the OCI distribution protocol that push and pull use.

It stores each blob and manifest by digest, and rejects a blob that does not have the digest in the request.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.servers.http_server import Handler, serve


@dataclass
class Registry:
    """The images that were pushed.

    Attributes:
        address: Host and port.
        manifests: Media type and content, by repository and tag or digest.
        blobs: Content by digest.
        uploads: Content of unfinished uploads by number.
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
    stored = Registry()

    class RegistryHandler(Handler):
        def do_GET(self) -> None:  # noqa: N802
            path = urlsplit(self.path).path
            if path == "/v2/":
                return self.send(200)
            if found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
                media_type, content = stored.manifests.get((found[1], found[2]), ("", b""))
                if not content:
                    return self.send(404)
                return self.send(
                    200,
                    content,
                    Content_Type=media_type,
                    Docker_Content_Digest=_digest(content),
                )
            found = re.fullmatch(r"/v2/.+/blobs/(.+)", path)
            if not found or found[1] not in stored.blobs:
                return self.send(404)
            content = stored.blobs[found[1]]
            return self.send(200, content, Docker_Content_Digest=found[1])

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:  # noqa: N802
            number = uuid.uuid4().hex
            stored.uploads[number] = self.read_body()
            repository = re.fullmatch(r"/v2/(.+)/blobs/uploads/", urlsplit(self.path).path)[1]
            self.send(202, Location=f"/v2/{repository}/blobs/uploads/{number}", Range="0-0")

        def do_PATCH(self) -> None:  # noqa: N802
            path = urlsplit(self.path).path
            number = path.rpartition("/")[2]
            stored.uploads[number] += self.read_body()
            self.send(202, Location=path, Range=f"0-{len(stored.uploads[number]) - 1}")

        def do_PUT(self) -> None:  # noqa: N802
            parts, content = urlsplit(self.path), self.read_body()
            if found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", parts.path):
                digest = _digest(content)
                for reference in (found[2], digest):
                    stored.manifests[found[1], reference] = (self.headers["Content-Type"], content)
                return self.send(201, Location=parts.path, Docker_Content_Digest=digest)
            content = stored.uploads.pop(parts.path.rpartition("/")[2]) + content
            (digest,) = parse_qs(parts.query)["digest"]
            if _digest(content) != digest:
                return self.send(400)
            stored.blobs[digest] = content
            return self.send(201, Location=parts.path, Docker_Content_Digest=digest)

    with serve(RegistryHandler) as port:
        stored.address = f"127.0.0.1:{port}"
        yield stored
