"""Runs the server until a signal stops it."""

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
from imgpipe.components.common.plural import plural
from imgpipe.components.serve.application import Server
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.serve.live_model import LiveModel
from imgpipe.components.storage import local_path

# Each connection may hold a body of max_request_bytes; max_bytes_in_flight limits their sum.
_MAX_CONNECTIONS = 256
_KEEP_ALIVE_SECONDS = 30
_GRACE_SECONDS = 10
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(arguments: ServeArguments) -> None:
    """Serves a model until SIGTERM or SIGINT, then completes the requests in progress and returns.

    Raises:
        MissingInputError: if no version of the model can be served.
        OutputError: if the server cannot listen on the address.
    """
    with _bound_socket(arguments) as listener:
        model = LiveModel(local_path(arguments.model), arguments.engine)
        # Only now: the readiness probe of KServe is a connection to the port.
        with _explain_address(arguments):
            listener.listen(_MAX_CONNECTIONS)
        host, port = listener.getsockname()[:2]
        log_event(
            "serving",
            f"serve: http://{host}:{port}/v1/models/{arguments.model_name()}:predict, "
            f"version {model.version}, {plural(len(model.labels), 'label')}, computed by {model.engine}",
            host=host,
            port=port,
            model=arguments.model_name(),
            version=model.version,
            engine=model.engine.name,
            precision=model.engine.precision,
        )
        config = uvicorn.Config(
            Server(arguments, model).application(),
            http=_protocol_with_deadline(arguments.request_seconds),
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            server_header=False,
        )
        _Uvicorn(config).run(sockets=[listener])


class _Uvicorn(uvicorn.Server):
    """Returns after a stop signal; uvicorn's own class raises the signal again, which kills the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _bound_socket(arguments: ServeArguments) -> socket.socket:
    """Reserves the address, which refuses connections until ``listen`` is called."""
    with _explain_address(arguments):
        family = socket.getaddrinfo(arguments.host, arguments.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((arguments.host, arguments.port))
    return listener


@contextlib.contextmanager
def _explain_address(arguments: ServeArguments) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot listen on {arguments.host}:{arguments.port}: {error.strerror}",
            remedy="use another --port or --host; --port=0 uses any free port",
        ) from None


def _protocol_with_deadline(seconds: float) -> type[asyncio.Protocol]:
    """Returns uvicorn's protocol with a deadline for the head of a connection's first request.

    Uvicorn itself waits indefinitely for a head that is sent one byte per minute.
    """

    class ProtocolWithDeadline(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_if_no_request)

        def _close_if_no_request(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return ProtocolWithDeadline
