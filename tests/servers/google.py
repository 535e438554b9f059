"""What the checks ask of Google Cloud and of a registry, on loopback: buckets, accounts, rights, images."""

import http.server
import json
import threading
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field


class Anything:
    """Holds whatever it is asked for."""

    def __contains__(self, _):
        return True

    def __rand__(self, others):
        return others


ANY_RIGHT = ANY_IMAGE = Anything()


@dataclass
class GoogleServer:
    """What is there.

    Attributes:
        objects: Names of objects by bucket.
        locations: Of the buckets.
        bindings: Of the buckets: members by role.
        rights: What the asking user may do in the project.
        accounts: Service accounts, and whether the user may act as them.
        images: ``path:tag`` or ``path@digest``.
        enabled: Whether Vertex AI is enabled.
        closed: Paths that begin so are answered with 403.
    """

    objects: dict = field(default_factory=dict)
    locations: dict = field(default_factory=dict)
    bindings: dict = field(default_factory=dict)
    rights: set = field(default_factory=set)
    accounts: dict = field(default_factory=dict)
    images: set = field(default_factory=set)
    enabled: bool = True
    closed: tuple = ()
    address: str = ""

    def answer(self, path, query, body):
        if self.closed and path.startswith(self.closed):
            return 403, {"error": {"message": "forbidden"}}
        parts = path.strip("/").split("/")
        if path.startswith("/storage/v1/b/"):
            return self._storage(parts, query)
        if path.startswith("/v2/"):
            *_, name, _, reference = parts
            middle = "/".join(parts[1:-2])
            known = {f"{middle}:{reference}", f"{middle}@{reference}"}
            return (200 if known & self.images else 404), {"name": name}
        if "/services/" in path:
            return 200, {"state": "ENABLED" if self.enabled else "DISABLED"}
        if "/serviceAccounts/" in path:
            account = parts[-1].removesuffix(":testIamPermissions")
            if account not in self.accounts:
                return 404, {}
            return 200, {"permissions": body["permissions"] if self.accounts[account] else []}
        if path.endswith(":testIamPermissions"):
            return 200, {"permissions": [one for one in body["permissions"] if one in self.rights]}
        if path.startswith("/v1/projects/"):
            return 200, {"projectNumber": "123"}
        return 404, {}

    def _storage(self, parts, query):
        bucket = parts[3]
        if bucket not in self.objects:
            return 404, {"error": {"message": "The specified bucket does not exist."}}
        if len(parts) == 4:
            return 200, {"name": bucket, "location": self.locations.get(bucket, "US-CENTRAL1")}
        if parts[4] == "iam":
            members = self.bindings.get(bucket, {})
            return 200, {"bindings": [{"role": role, "members": who} for role, who in members.items()]}
        items = [
            {"name": name, "size": "1", "generation": "1", "crc32c": "AAAAAA==", "bucket": bucket}
            for name in sorted(self.objects[bucket])
        ]
        if len(parts) == 5:
            prefix = query.get("prefix", "")
            return 200, {"items": [one for one in items if one["name"].startswith(prefix)]}
        found = [one for one in items if one["name"] == urllib.parse.unquote(parts[5])]
        return (200, found[0]) if found else (404, {"error": {"message": "No such object"}})


@contextmanager
def start_google_server():
    """Yields a server on which nothing is yet."""
    held = GoogleServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def respond(self):
            split = urllib.parse.urlsplit(self.path)
            query = {key: values[0] for key, values in urllib.parse.parse_qs(split.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = held.answer(split.path, query, json.loads(body) if body else {})
            content = b"" if self.command == "HEAD" else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_HEAD = respond  # noqa: N815 - the base class wants these names

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
