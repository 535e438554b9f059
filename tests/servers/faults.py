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
# Each connection has its own.
_NOT_FORWARDED = ("content-length", "transfer-encoding", "connection", "expect", "server", "date")


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        kind: ``status``, ``page``, ``null``, ``broken``, ``silence``, ``reset``, ``restart``, ``cut``: the
            connection is reset in the middle of the content, or ``short``: the content ends there, as if it
            were complete.
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
        choose: Returns the fault of a request, a function that gets the handler and answers instead, or None.
        on_response: Gets status, content and headers of the server's responses.
        injected: The faults so far.
    """

    def __init__(self, target, choose, on_response=lambda *_: None):
        self.target = urllib.parse.urlsplit(target).netloc
        self.choose, self.on_response = choose, on_response
        self.injected = []
        self.address = ""
        self._up_again = 0.0

    def handle(self, handler):
        """Answers one request."""
        body = handler.read_body()
        if len(body) < int(handler.headers.get("Content-Length", 0)):
            # The client was terminated. A server with one thread would wait for the rest.
            handler.close_connection = True
            return
        is_down = time.monotonic() < self._up_again
        fault = None if is_down else self.choose(handler.command, handler.path)
        if callable(fault):
            fault(handler)
            return
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
        elif fault.kind in ("cut", "short"):
            status, content, headers = response or (
                200,
                b'{"items": []}',
                {"Content-Type": "application/json"},
            )
            half = content[: len(content) // 2]
            length = len(half if fault.kind == "short" else content)
            handler.send(status, half, **{"Content_Length": str(length), **headers})
            handler.close_connection = True
            if fault.kind == "cut":
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
        try:
            connection.request(handler.command, handler.path, body, _forwarded(handler.headers.items()))
            response = connection.getresponse()
            content, headers = response.read(), _forwarded(response.getheaders())
        finally:
            connection.close()
        if handler.command == "HEAD":
            headers["Content_Length"] = response.getheader("Content-Length", "0")
        self.on_response(response.status, content, headers)
        return response.status, content, headers


def _forwarded(headers):
    return {name: value for name, value in headers if name.lower() not in _NOT_FORWARDED}


def _reset(handler):
    """Resets the connection of a request."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


@contextmanager
def start_fault_proxy(*arguments):
    """Yields a ``FaultProxy``."""
    proxy = FaultProxy(*arguments)

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
