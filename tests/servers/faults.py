"""A proxy on loopback that breaks HTTP calls in the ways networks, proxies and restarts do."""

import http.client
import socket
import struct
import time
import urllib.parse
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.servers.http_server import Handler, serve

HELD_SECONDS = 5.0


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        kind: ``status``, ``page``, ``null``, ``broken``, ``silence``, ``reset``, ``restart``, or ``cut``: the
            connection is reset in the middle of the response.
        executed: Whether the server executes the request before its response is lost.
        status: Status of a ``status``.
        retry_after: Value of ``Retry-After``; empty = none.
        seconds: Duration of a ``restart``, during which every connection is reset.
    """

    kind: str
    executed: bool = False
    status: int = 503
    retry_after: str = ""
    seconds: float = 0.0


class FaultProxy:
    """Forwards requests to a server, except those that ``choose(method, path)`` returns a fault for.

    Attributes:
        choose: Returns the fault of a request, or None.
        injected: The faults so far.
    """

    def __init__(self, target, choose):
        self.target = urllib.parse.urlsplit(target).netloc
        self.choose = choose
        self.injected = []
        self.address = ""
        self._up_again = 0.0

    def handle(self, handler):
        """Answers one request."""
        body = handler.read_body()
        is_down = time.monotonic() < self._up_again
        fault = None if is_down else self.choose(handler.command, handler.path)
        if fault is not None:
            self.injected.append(fault)
            if fault.kind == "restart":
                self._up_again = time.monotonic() + fault.seconds
        if is_down:
            _reset(handler)
            return
        response = self._forward(handler, body) if fault is None or fault.executed else None
        if fault is None:
            status, content, headers = response
            handler.send(status, content, **headers)
        elif fault.kind == "status":
            headers = {"Retry_After": fault.retry_after} if fault.retry_after else {}
            handler.send(fault.status, b"<html>upstream connect error</html>", **headers)
        elif fault.kind == "page":
            handler.send(200, b"<!doctype html><title>Log in</title>", Content_Type="text/html")
        elif fault.kind in ("null", "broken"):
            content = b"null" if fault.kind == "null" else (response[1] if response else b'{"runs": ')[:-1]
            handler.send(200, content, Content_Type="application/json")
        elif fault.kind == "cut":
            content = response[1] if response else b'{"items": []}'
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            _reset(handler)
        elif fault.kind == "silence":
            # Until the client closes the connection.
            handler.connection.settimeout(HELD_SECONDS)
            with suppress(OSError):
                handler.connection.recv(1)
            handler.close_connection = True
        else:
            _reset(handler)

    def _forward(self, handler, body):
        connection = http.client.HTTPConnection(self.target, timeout=30)
        skipped = ("host", "connection", "transfer-encoding", "content-length")
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in skipped}
        try:
            connection.request(handler.command, handler.path, body=body, headers=headers)
            response = connection.getresponse()
            content_type = {"Content_Type": response.getheader("Content-Type", "application/json")}
            return response.status, response.read(), content_type
        finally:
            connection.close()


def _reset(handler):
    """Resets the connection of a request."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@contextmanager
def start_fault_proxy(target, choose):
    """Yields a proxy in front of the server at ``target``."""
    proxy = FaultProxy(target, choose)

    class ProxyHandler(Handler):
        def respond(self):
            # The client may have given up.
            with suppress(OSError):
                proxy.handle(self)

        def finish(self):
            # The connection may have been reset.
            with suppress(OSError, ValueError):
                super().finish()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = respond  # noqa: N815

    with serve(ProxyHandler) as port:
        proxy.address = f"http://127.0.0.1:{port}"
        yield proxy


def once(fault, method="", part=""):
    """Returns a ``choose`` that injects a fault into the first request that matches."""
    remaining = [fault]

    def choose(request_method, path):
        if remaining and method in request_method and part in path:
            return remaining.pop()
        return None

    return choose
