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

from imgpipe.components.common.drift import DriftGauge
from imgpipe.components.common.html_page import render
from imgpipe.components.common.log import log_event
from imgpipe.components.common.saved_model import DEFAULT_SIGNATURE, LABELS_SIGNATURE
from imgpipe.components.serve.arguments import ServeArguments
from imgpipe.components.serve.batcher import Batcher
from imgpipe.components.serve.image_upload import is_upload, parse_upload
from imgpipe.components.serve.live_model import LiveModel
from imgpipe.components.serve.measurements import CONTENT_TYPE, Measurements
from imgpipe.components.serve.predict_request import (
    PredictRequest,
    RequestError,
    parse_predict_request,
    predict_response,
)

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18}))?(?P<action>:predict|/metadata)?",
    re.ASCII,
)
# Larger bodies are parsed in a thread, so that they do not delay other requests.
_LARGE_BODY_BYTES = 1_000_000


class Server:
    """The application and its state.

    Args:
        arguments: The model's name and the limits.
        model: The model.
    """

    def __init__(self, arguments: ServeArguments, model: LiveModel) -> None:
        self._arguments = arguments
        self._model = model
        self._bytes_in_flight = 0
        self._measurements = Measurements(lambda: self._batcher.waiting, lambda: model.version)
        model.on_embeddings = DriftGauge(self._measurements.observe_drift).add
        self._batcher = Batcher(
            model.predict,
            max_images=arguments.max_batch_size,
            max_waiting=arguments.max_waiting_images,
            on_batch=self._measurements.batch_images.observe,
        )

    def application(self) -> Starlette:
        """Returns the ASGI application."""
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/{path:path}", self._handle, methods=["GET", "POST"]),
            ],
            # The router raises only this one: for a method other than GET and POST.
            exception_handlers={HTTPException: self._method_not_allowed},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch_versions())
        try:
            yield
        finally:
            watcher.cancel()
            await self._batcher.close()

    async def _watch_versions(self) -> None:
        while True:
            await asyncio.sleep(self._arguments.poll_seconds)
            try:
                await asyncio.to_thread(self._model.refresh)
            except Exception as error:
                log_event("watch_failed", f"serve: cannot check for new versions: {error}", severity="ERROR")

    async def _health(self, _: Request) -> Response:
        return _json_response(200, {"status": "ok", "version": self._model.version})

    async def _page(self, _: Request) -> Response:
        page = render("predict.html", "imgpipe.components.serve", model=self._arguments.model_name())
        return Response(page, media_type="text/html; charset=utf-8")

    async def _metrics(self, _: Request) -> Response:
        return Response(self._measurements.text(), media_type=CONTENT_TYPE)

    async def _handle(self, request: Request) -> Response:
        try:
            response = await self._dispatch(request)
        except RequestError as error:
            response = await self._error_response(request, error)
        except ClientDisconnect:
            # For the metrics: the client does not read it.
            response = _json_response(400, {"error": "the client closed the connection"})
        except Exception as error:
            log_event("request_failed", f"serve: {type(error).__name__}: {error}", severity="ERROR")
            response = _json_response(500, {"error": "internal error: see the server's log"})
        self._measurements.requests.labels(status=str(response.status_code)).inc()
        return response

    async def _method_not_allowed(self, request: Request, _: Exception) -> Response:
        error = RequestError(405, f"{request.method} is not allowed here; use GET or POST")
        response = await self._error_response(request, error)
        self._measurements.requests.labels(status="405").inc()
        return response

    async def _error_response(self, request: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        if error.status == 405:
            headers["Allow"] = "GET, POST"
        if error.status == 408 or not await self._discard_body(request):
            # The rest of the body would be parsed as the next request.
            headers["Connection"] = "close"
        return _json_response(error.status, {"error": error.reason}, headers)

    async def _dispatch(self, request: Request) -> Response:
        match = _PATH.fullmatch(request.url.path)
        if match is None:
            raise RequestError(
                404,
                f"unknown path; the paths are / (a page), /v1/models/{self._arguments.model_name()} (GET), "
                "the same with :predict (POST) or /metadata (GET), /healthz and /metrics",
            )
        name, version, action = match["name"], match["version"], match["action"]
        if name != self._arguments.model_name():
            raise RequestError(404, f"unknown model; this server has {self._arguments.model_name()!r}")
        if version is not None and int(version) != self._model.version:
            raise RequestError(
                404, f"unknown version {version}; this server has version {self._model.version}"
            )
        method = "POST" if action == ":predict" else "GET"
        if request.method != method:
            raise RequestError(405, f"{request.method} is not allowed here; use {method}")
        if action == ":predict":
            return await self._predict(request)
        if action == "/metadata":
            return _json_response(200, self._metadata())
        return _json_response(200, {"model_version_status": self._model.statuses()})

    async def _predict(self, request: Request) -> Response:
        started = time.perf_counter()
        arguments = self._arguments
        received = 0
        try:
            parts: list[bytes] = []
            try:
                async with asyncio.timeout(arguments.request_seconds):
                    async for part in request.stream():
                        received += len(part)
                        self._bytes_in_flight += len(part)
                        self._check_size(received)
                        if part:
                            parts.append(part)
            except TimeoutError:
                raise RequestError(
                    408, f"the request did not arrive within {arguments.request_seconds:g} seconds"
                ) from None
            body = b"".join(parts)
            del parts
            content_type = request.headers.get("content-type", "")
            if is_upload(content_type):
                parsed = await self._parse_upload(body, content_type)
            elif len(body) < _LARGE_BODY_BYTES:
                parsed = self._parse(body)
            else:
                parsed = await asyncio.to_thread(self._parse, body)
            del body
            if parsed.signature not in self._model.signatures:
                known = ", ".join(sorted(self._model.signatures))
                raise RequestError(400, f"unknown signature; the model has {known}")
            outputs = await self._batcher.predict(parsed)
            response = _json_response(200, predict_response(parsed, outputs))
        finally:
            self._bytes_in_flight -= received
        self._measurements.seconds.observe(time.perf_counter() - started)
        return response

    async def _discard_body(self, request: Request) -> bool:
        """Reads the rest of a body, within limits; returns whether it was read to its end.

        A connection that is closed with unread data is reset, and the client does not see the error.
        """
        remaining = 2 * self._arguments.max_request_bytes
        try:
            async with asyncio.timeout(self._arguments.request_seconds):
                async for part in request.stream():
                    remaining -= len(part)
                    if remaining < 0:
                        return False
        except (TimeoutError, ClientDisconnect):
            return False
        except RuntimeError:
            # Starlette's error for a body that was read to its end before.
            return True
        return True

    async def _parse_upload(self, body: bytes, content_type: str) -> PredictRequest:
        # People upload files: they read names, not one probability for each class.
        has_labels = LABELS_SIGNATURE in self._model.signatures
        return await parse_upload(
            body,
            content_type,
            default_signature=LABELS_SIGNATURE if has_labels else DEFAULT_SIGNATURE,
            max_images=self._arguments.max_images_per_request,
            max_image_pixels=self._arguments.max_image_pixels,
        )

    def _parse(self, body: bytes) -> PredictRequest:
        return parse_predict_request(
            body,
            max_images=self._arguments.max_images_per_request,
            max_image_pixels=self._arguments.max_image_pixels,
        )

    def _check_size(self, received: int) -> None:
        if received > self._arguments.max_request_bytes:
            raise RequestError(
                413, f"the body is larger than max_request_bytes={self._arguments.max_request_bytes:,}"
            )
        if self._bytes_in_flight > self._arguments.max_bytes_in_flight:
            raise RequestError(503, "too many large requests at the same time; retry later")

    def _metadata(self) -> dict[str, Any]:
        """Returns the inputs and outputs of the model's signatures, in TensorFlow Serving's form."""

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


def _json_response(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(body, status, headers, media_type="application/json")
