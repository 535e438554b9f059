"""Listens, and ends when it is told to."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from imgpipe.components.common.errors import OutputError
from imgpipe.components.common.log import log_event
from imgpipe.components.serve.application import Server
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.serve.live_model import LiveModel
from imgpipe.components.storage.files import local_path

# Connections; each may hold a body of max_request_bytes, whose sum is limited besides.
_MOST_CONNECTIONS = 256
_KEEP_ALIVE_SECONDS = 30
_GRACE_SECONDS = 10
_ENDED_BY = (signal.SIGINT, signal.SIGTERM)


def serve(arguments: ServeArguments) -> None:
    """Serves a model until SIGTERM or SIGINT, then answers what it has and returns.

    Raises:
        MissingInputError: if there is no model that can be served.
        OutputError: if the address cannot be listened on.
    """
    with _listening_socket(arguments) as listener:
        model = LiveModel(local_path(arguments.model))
        host, port = listener.getsockname()[:2]
        log_event(
            "serving",
            f"serve: http://{host}:{port}/v1/models/{arguments.model_name()}:predict, "
            f"version {model.version}, {len(model.labels)} labels",
            host=host,
            port=port,
            model=arguments.model_name(),
            version=model.version,
        )
        config = uvicorn.Config(
            Server(arguments, model).application(),
            http=_protocol_with_deadline(arguments.request_seconds),
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            server_header=False,
        )
        _Uvicorn(config).run(sockets=[listener])


class _Uvicorn(uvicorn.Server):
    """Takes a signal for the end of its work, where uvicorn ends itself by the same signal afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in _ENDED_BY}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _listening_socket(arguments: ServeArguments) -> socket.socket:
    try:
        family = socket.getaddrinfo(arguments.host, arguments.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((arguments.host, arguments.port))
        # From here on clients wait for an answer instead of being refused.
        listener.listen(_MOST_CONNECTIONS)
    except OSError as error:
        raise OutputError(
            f"cannot listen on {arguments.host}:{arguments.port}: {error.strerror}",
            remedy="name another --port or --host; --port=0 takes any that is free",
        ) from None
    return listener


def _protocol_with_deadline(seconds: float) -> type[asyncio.Protocol]:
    """Returns uvicorn's protocol, which ends a connection whose first request's head does not arrive in time.

    Uvicorn itself waits for ever for a head that is sent a byte a minute.
    """

    class ProtocolWithDeadline(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._end_if_silent)

        def _end_if_silent(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return ProtocolWithDeadline
