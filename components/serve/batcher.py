"""Collects the requests that arrive while the model is busy, and predicts their images in one batch."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.plural import plural
from imgpipe.components.serve.predict_request import PredictRequest, RequestError

Outputs = dict[str, NDArray[Any]]
# predict(signature, images, keys) returns the signature's outputs, each with one entry per image.
Predict = Callable[[str, Sequence[bytes], Sequence[str]], Outputs]


# A second batch uses the cores where the first one does not: 244 instead of 222 images per second with
# mobilenet-v2 on two cores, and a median of 17 instead of 25 ms at half that load.
_BATCHES_AT_ONCE = 2


class Batcher:
    """A queue of requests, and two threads that run the model.

    A single request runs immediately. Under load, a batch is whatever has arrived until a thread is free. An
    image that cannot be decoded fails its own request only.

    Args:
        predict: Runs the model, in two threads; may raise InvalidDataError for an image that cannot be
            decoded.
        max_images: Images in a batch.
        max_waiting: Images in the queue.
        on_batch: Called with the number of images of each batch.
    """

    def __init__(
        self, predict: Predict, *, max_images: int, max_waiting: int, on_batch: Callable[[int], None]
    ) -> None:
        self._predict = predict
        self._max_images = max_images
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._queue: deque[tuple[PredictRequest, asyncio.Future[Outputs]]] = deque()
        self._waiting = 0
        self._closed = False
        self._workers: list[asyncio.Task[None]] = []
        self._threads = ThreadPoolExecutor(_BATCHES_AT_ONCE, "model")

    @property
    def waiting(self) -> int:
        """The number of images in the queue."""
        return self._waiting

    async def predict(self, request: PredictRequest) -> Outputs:
        """Returns the outputs for a request's images, in their order.

        Raises:
            RequestError: with status 503 if too many images wait, 400 if an image cannot be decoded.
        """
        if self._closed or self._waiting + len(request.images) > self._max_waiting:
            raise RequestError(503, f"{plural(self._waiting, 'image')} already waiting; retry later")
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self._queue.append((request, future))
        self._waiting += len(request.images)
        self._workers = [worker for worker in self._workers if not worker.done()]
        if len(self._workers) < _BATCHES_AT_ONCE:
            self._workers.append(asyncio.create_task(self._work()))
        return await future

    async def close(self) -> None:
        """Rejects further requests and returns once the queue is empty."""
        self._closed = True
        await asyncio.gather(*self._workers)
        self._threads.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._next_batch()
            requests = [request for request, _ in batch]
            results = await loop.run_in_executor(self._threads, self._results, requests)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    # The client has closed the connection.
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next_batch(self) -> list[tuple[PredictRequest, asyncio.Future[Outputs]]]:
        """Removes the first request from the queue, and those after it with the same signature that fit."""
        batch = [self._queue.popleft()]
        first, _ = batch[0]
        images = len(first.images)
        while (
            self._queue
            and self._queue[0][0].signature == first.signature
            and images + len(self._queue[0][0].images) <= self._max_images
        ):
            batch.append(self._queue.popleft())
            images += len(batch[-1][0].images)
        self._waiting -= images
        return batch

    def _results(self, requests: Sequence[PredictRequest]) -> list[Outputs | Exception]:
        """Returns the outputs of each request, or its error."""
        images = [image for request in requests for image in request.images]
        keys = [key for request in requests for key in request.keys]
        try:
            outputs = self._outputs(requests[0].signature, images, keys)
        except InvalidDataError as error:
            if len(requests) == 1:
                return [self._invalid_image(requests[0], error)]
            # TensorFlow does not say which image it is: each request on its own.
            return [self._results([request])[0] for request in requests]
        except Exception as error:
            return [error] * len(requests)
        self._on_batch(len(images))
        results: list[Outputs | Exception] = []
        begin = 0
        for request in requests:
            end = begin + len(request.images)
            results.append({name: values[begin:end] for name, values in outputs.items()})
            begin = end
        return results

    def _outputs(self, signature: str, images: Sequence[bytes], keys: Sequence[str]) -> Outputs:
        # One request may have more images than a batch.
        size = self._max_images
        parts = [
            self._predict(signature, images[begin : begin + size], keys[begin : begin + size])
            for begin in range(0, len(images), size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _invalid_image(self, request: PredictRequest, error: InvalidDataError) -> RequestError:
        """Finds the image of a request that cannot be decoded."""
        for number, (image, key) in enumerate(zip(request.images, request.keys, strict=True)):
            try:
                self._predict(request.signature, [image], [key])
            except InvalidDataError as found:
                return RequestError(400, f"image {number}: {found.problem}")
            except Exception as found:
                return RequestError(500, f"image {number}: {type(found).__name__}")
        return RequestError(400, error.problem)
