"""TensorFlow Serving's REST API for one model, as an ASGI application."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from imgpipe.components.common.log import log_event
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.serve.batcher import Batcher
from imgpipe.components.serve.live_model import LiveModel
from imgpipe.components.serve.measurements import CONTENT_TYPE, Measurements
from imgpipe.components.serve.predict_request import RequestError, parse_predict_request, response_of

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18}))?(?P<what>:predict|/metadata)?", re.ASCII
)
# Bodies from this size on are parsed by a thread, so that other requests are not held up.
_LARGE_BODY_BYTES = 1_000_000


class Server:
    """The application and what lives as long as it.

    Args:
        arguments: What to serve and within which limits.
        model: The model.
    """

    def __init__(self, arguments: ServeArguments, model: LiveModel) -> None:
        self._arguments = arguments
        self._model = model
        self._bytes_in_flight = 0
        self._measurements = Measurements(lambda: self._batcher.waiting, lambda: model.version)
        self._batcher = Batcher(
            model.ask,
            max_images=arguments.max_batch_size,
            max_waiting=arguments.max_waiting_images,
            on_batch=self._measurements.batch_images.observe,
        )

    def application(self) -> Starlette:
        """Returns the ASGI application."""
        return Starlette(
            routes=[
                Route("/healthz", self._health, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/{path:path}", self._any, methods=["GET", "POST"]),
            ],
            # Of the router: a method that no path takes.
            exception_handlers={HTTPException: self._not_allowed},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch_versions())
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.to_thread(self._batcher.close)

    async def _watch_versions(self) -> None:
        while True:
            await asyncio.sleep(self._arguments.poll_seconds)
            try:
                await asyncio.to_thread(self._model.refresh)
            except Exception as error:
                log_event("watch_failed", f"serve: cannot look for versions: {error}", severity="ERROR")

    async def _health(self, _: Request) -> Response:
        return _answer(200, {"status": "ok", "version": self._model.version})

    async def _metrics(self, _: Request) -> Response:
        return Response(self._measurements.text(), media_type=CONTENT_TYPE)

    async def _any(self, request: Request) -> Response:
        try:
            response = await self._of_model(request)
        except RequestError as error:
            response = await self._refusal(request, error)
        except ClientDisconnect:
            # Nobody reads this.
            response = _answer(400, {"error": "the request ended early"})
        except Exception as error:
            log_event("request_failed", f"serve: {type(error).__name__}: {error}", severity="ERROR")
            response = _answer(500, {"error": "the model could not be asked; the server's log says why"})
        self._measurements.requests.labels(status=str(response.status_code)).inc()
        return response

    async def _not_allowed(self, request: Request, _: Exception) -> Response:
        error = RequestError(405, f"{request.method} is not allowed here; use GET or POST")
        response = await self._refusal(request, error)
        self._measurements.requests.labels(status="405").inc()
        return response

    async def _refusal(self, request: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        if error.status == 405:
            headers["Allow"] = "GET, POST"
        if error.status == 408 or not await self._rest_is_discarded(request):
            # What is still to come would be taken for the next request.
            headers["Connection"] = "close"
        return _answer(error.status, {"error": error.reason}, headers)

    async def _of_model(self, request: Request) -> Response:
        match = _PATH.fullmatch(request.url.path)
        if match is None:
            raise RequestError(
                404,
                f"no such path; known are /v1/models/{self._arguments.model_name()} (GET), the same with "
                ":predict (POST) or /metadata (GET), /healthz and /metrics",
            )
        name, version, what = match["name"], match["version"], match["what"]
        if name != self._arguments.model_name():
            raise RequestError(404, f"no such model; served is {self._arguments.model_name()!r}")
        if version is not None and int(version) != self._model.version:
            raise RequestError(404, f"version {version} is not served; served is {self._model.version}")
        wanted = "POST" if what == ":predict" else "GET"
        if request.method != wanted:
            raise RequestError(405, f"{request.method} is not allowed here; use {wanted}")
        if what == ":predict":
            return await self._predict(request)
        if what == "/metadata":
            return _answer(200, self._metadata())
        return _answer(200, {"model_version_status": [one.to_json() for one in self._model.statuses()]})

    async def _predict(self, request: Request) -> Response:
        started = time.perf_counter()
        arguments = self._arguments
        taken = 0
        try:
            parts: list[bytes] = []
            _check_claimed_size(request, arguments.max_request_bytes)
            try:
                async with asyncio.timeout(arguments.request_seconds):
                    async for part in _body_of(request):
                        taken += len(part)
                        self._bytes_in_flight += len(part)
                        self._check_size(taken)
                        parts.append(part)
            except TimeoutError:
                raise RequestError(
                    408, f"the request did not arrive within {arguments.request_seconds:g} seconds"
                ) from None
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            del parts
            if len(body) < _LARGE_BODY_BYTES:
                parsed = self._parsed(body)
            else:
                parsed = await asyncio.to_thread(self._parsed, body)
            del body
            if parsed.signature not in self._model.signatures:
                known = ", ".join(sorted(self._model.signatures))
                raise RequestError(400, f"the model has no such signature; it has {known}")
            answers = await self._batcher.answer(parsed)
            response = _answer(200, response_of(parsed, answers))
        finally:
            self._bytes_in_flight -= taken
        self._measurements.seconds.observe(time.perf_counter() - started)
        return response

    async def _rest_is_discarded(self, request: Request) -> bool:
        """Reads what is left of a body, within limits; False if there is still more.

        A connection that is closed with unread data is reset, and the client never sees the reason.
        """
        left = 2 * self._arguments.max_request_bytes
        try:
            async with asyncio.timeout(self._arguments.request_seconds):
                async for part in _body_of(request):
                    left -= len(part)
                    if left < 0:
                        return False
        except (TimeoutError, ClientDisconnect):
            return False
        return True

    def _parsed(self, body: bytes) -> Any:
        return parse_predict_request(
            body,
            max_images=self._arguments.max_images_per_request,
            max_image_pixels=self._arguments.max_image_pixels,
        )

    def _check_size(self, taken: int) -> None:
        if taken > self._arguments.max_request_bytes:
            raise RequestError(
                413, f"the body is larger than max_request_bytes={self._arguments.max_request_bytes:,}"
            )
        if self._bytes_in_flight > self._arguments.max_bytes_in_flight:
            raise RequestError(503, "too many large requests at a time; come again")

    def _metadata(self) -> dict[str, Any]:
        """Returns what a model's signatures take and give, in TensorFlow Serving's form."""

        def tensors(specs: dict[str, Any]) -> dict[str, Any]:
            return {
                name: {
                    "dtype": f"DT_{spec.dtype.name.upper()}".replace("FLOAT32", "FLOAT"),
                    "tensor_shape": {
                        "dim": [{"size": str(-1 if size is None else size)} for size in spec.shape.as_list()]
                    },
                }
                for name, spec in specs.items()
            }

        signatures = {
            name: {
                "inputs": tensors(signature.structured_input_signature[1]),
                "outputs": tensors(signature.structured_outputs),
                "method_name": "tensorflow/serving/predict",
            }
            for name, signature in self._model.signatures.items()
        }
        return {
            "model_spec": {
                "name": self._arguments.model_name(),
                "signature_name": "",
                "version": str(self._model.version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}, "labels": list(self._model.labels)},
        }


async def _body_of(request: Request) -> AsyncIterator[bytes]:
    """Yields the parts of a body that are still to come; nothing once it is read.

    Raises:
        ClientDisconnect: if the client goes away before its end.
    """
    while not getattr(request.state, "body_is_read", False):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        request.state.body_is_read = not message.get("more_body", False)
        yield message.get("body", b"")


def _check_claimed_size(request: Request, largest: int) -> None:
    claimed = request.headers.get("content-length", "")
    if claimed.isascii() and claimed.isdigit() and int(claimed) > largest:
        raise RequestError(
            413, f"the body of {int(claimed):,} bytes is larger than max_request_bytes={largest:,}"
        )


def _answer(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(body, status, headers, media_type="application/json")
