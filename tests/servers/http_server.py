"""HTTP servers on loopback, which replace cloud services in tests."""

import http.server
import json
import re
import socket
import threading
import urllib.parse
from contextlib import contextmanager, suppress


class _Server(http.server.ThreadingHTTPServer):
    """A server that closes its connections when it is closed: clients keep them open for the next request."""

    daemon_threads = True

    def __init__(self, *arguments):
        self._connections = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self):
        super().server_close()
        for connection in tuple(self._connections):
            # Ends the read of its thread, which then closes it.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serve(handler_class):
    """Runs a server with the handler class and yields its port."""
    server = _Server(("127.0.0.1", 0), handler_class)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    """A request handler without a log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_): ...

    def read_body(self):
        """Returns the request's body, which may be chunked."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status, content=b"", **headers):
        """Sends a response; ``_`` in the name of a header becomes ``-``."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve_json(respond, intercept=lambda _: False):
    """Yields the address of a server whose responses are ``respond(method, path, query, body)``.

    Args:
        respond: Gets the body as bytes; returns the status and the content: JSON, or a str as plain text.
        intercept: Gets the handler of each request first; returns whether it has sent a response.
    """

    class JsonHandler(Handler):
        def respond(self):
            url = urllib.parse.urlsplit(self.path)
            query = {name: values[-1] for name, values in urllib.parse.parse_qs(url.query).items()}
            self.body = body = self.read_body()
            if intercept(self):
                return
            status, content = respond(self.command, urllib.parse.unquote(url.path), query, body)
            if isinstance(content, str):
                self.send(status, content.encode(), Content_Type="text/plain")
            else:
                self.send(status, json.dumps(content).encode(), Content_Type="application/json")

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = respond  # noqa: N815

    with serve(JsonHandler) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serve_target(target, intercept=lambda _: False):
    """Serves ``target.handle(method, path, query, body)``, which gets JSON and returns status and JSON."""

    def respond(method, path, query, body):
        return target.handle(method, path, query, json.loads(body) if body else None)

    with serve_json(respond, intercept) as target.address:
        yield target


def access_review(path, body, denied, account="system:serviceaccount:kubeflow:pipeline-runner"):
    """Returns the response of Kubernetes to a review of access, or to discovery; None for other paths.

    The review comes back with a status, with 201: kubernetes/kubernetes,
    pkg/registry/authorization/selfsubjectaccessreview/rest.go and
    pkg/registry/authentication/selfsubjectreview/rest.go, 1.36.

    Args:
        path: The path of the request.
        body: The review, parsed.
        denied: ``"VERB RESOURCE.GROUP"`` of what the account may not do; paths of APIs that do not exist.
        account: Its user name.
    """
    if path in (
        "/apis/serving.kserve.io/v1beta1",
        "/apis/kubeflow.org/v1beta1",
        "/apis/serving.knative.dev/v1",
    ):
        if path in denied:
            return 404, {"message": "404 page not found"}
        return 200, {"kind": "APIResourceList", "groupVersion": path.removeprefix("/apis/"), "resources": []}
    if path == "/apis/authentication.k8s.io/v1/selfsubjectreviews":
        return 201, {**body, "status": {"userInfo": {"username": account}}}
    if not re.fullmatch("/apis/authorization.k8s.io/v1/(self)?subjectaccessreviews", path):
        return None
    asked = body["spec"]["resourceAttributes"]
    resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
    allowed = f"{asked['verb']} {resource}.{asked.get('group', '')}".rstrip(".") not in denied
    return 201, {**body, "status": {"allowed": allowed}}
