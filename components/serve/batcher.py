"""Gathers the images of requests that arrive while the model is busy, and answers them together."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import InvalidDataError, PipelineError
from imgpipe.components.serve.predict_request import PredictRequest, RequestError

Answers = dict[str, NDArray[Any]]
# ask(signature, images, keys) returns the signature's outputs, one entry an image.
Ask = Callable[[str, Sequence[bytes], Sequence[str]], Answers]


@dataclass
class _Waiting:
    request: PredictRequest
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Answers]" = field(init=False)

    def __post_init__(self) -> None:
        self.future = self.loop.create_future()

    def finish(self, answers: Answers | Exception) -> None:
        def set_it() -> None:
            # A client that has gone is not waiting any more.
            if self.future.done():
                return
            if isinstance(answers, Exception):
                self.future.set_exception(answers)
            else:
                self.future.set_result(answers)

        self.loop.call_soon_threadsafe(set_it)


class Batcher:
    """One thread that asks the model, and the queue before it.

    A lone request is answered at once; under load batches fill by themselves, because the next one is made
    of what has arrived meanwhile. One image that cannot be decoded fails the request that it is in, no
    other.

    Args:
        ask: Asks the model; may raise InvalidDataError for an image that cannot be decoded.
        max_images: In a batch.
        max_waiting: Images in the queue.
        on_batch: Called with the number of images of each batch.
    """

    def __init__(
        self, ask: Ask, *, max_images: int, max_waiting: int, on_batch: Callable[[int], None]
    ) -> None:
        self._ask = ask
        self._max_images = max_images
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._queue: deque[_Waiting] = deque()
        self._images = 0
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return self._images

    async def answer(self, request: PredictRequest) -> Answers:
        """Returns the answers for a request's images, in their order.

        Raises:
            RequestError: with status 503 if too many images wait, 400 if an image cannot be decoded.
        """
        waiting = _Waiting(request, asyncio.get_running_loop())
        with self._condition:
            if self._closed or self._images + len(request.images) > self._max_waiting:
                raise RequestError(503, f"{self._images} images wait already; come again")
            self._queue.append(waiting)
            self._images += len(request.images)
            self._condition.notify()
        return await waiting.future

    def close(self) -> None:
        """Ends the thread once the queue is empty."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._closed:
                    self._condition.wait()
                if not self._queue:
                    return
                batch = self._taken()
            self._answer(batch)

    def _taken(self) -> list[_Waiting]:
        """Takes the first request, and those behind it that fit and want the same signature."""
        batch = [self._queue.popleft()]
        count = len(batch[0].request.images)
        while (
            self._queue
            and self._queue[0].request.signature == batch[0].request.signature
            and count + len(self._queue[0].request.images) <= self._max_images
        ):
            batch.append(self._queue.popleft())
            count += len(batch[-1].request.images)
        self._images -= count
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        images = [image for waiting in batch for image in waiting.request.images]
        keys = [key for waiting in batch for key in waiting.request.keys]
        try:
            answers = self._asked(batch[0].request.signature, images, keys)
        except InvalidDataError as error:
            if len(batch) > 1:
                # One of them is at fault; the others get their answers.
                for waiting in batch:
                    self._answer([waiting])
            else:
                batch[0].finish(self._located(batch[0].request, error))
            return
        except Exception as error:
            for waiting in batch:
                waiting.finish(error)
            return
        self._on_batch(len(images))
        first = 0
        for waiting in batch:
            end = first + len(waiting.request.images)
            waiting.finish({name: values[first:end] for name, values in answers.items()})
            first = end

    def _asked(self, signature: str, images: Sequence[bytes], keys: Sequence[str]) -> Answers:
        # A request may hold more images than a batch.
        parts = [
            self._ask(
                signature, images[start : start + self._max_images], keys[start : start + self._max_images]
            )
            for start in range(0, len(images), self._max_images)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _located(self, request: PredictRequest, error: PipelineError) -> RequestError:
        for number, (image, key) in enumerate(zip(request.images, request.keys, strict=True)):
            try:
                self._ask(request.signature, [image], [key])
            except InvalidDataError as found:
                return RequestError(400, f"image {number}: {found.problem}")
            except Exception as found:
                return RequestError(500, f"image {number}: {type(found).__name__}")
        return RequestError(400, error.problem)
