"""Turns images into lines of JSON: reads, predicts in batches, several batches at a time."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.inputs import InputImage
from imgpipe.components.common.errors import InterruptedRunError, InvalidDataError, PipelineError
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.served_model import ServedModel
from imgpipe.components.images.checking import ImageError, check_image_header
from imgpipe.components.storage.cloud_storage import DOWNLOADS_AT_ONCE, is_cloud_path
from imgpipe.components.storage.files import read_file

Item = TypeVar("Item")
Result = TypeVar("Result")


class Predictor:
    """Predicts images with one model.

    Several batches are under way at the same time: while one is in the model's last, narrow layers or
    waits for a file, others decode.

    Args:
        model: The loaded model.
        arguments: top_k, batch_size and the limits of an image.
    """

    def __init__(self, model: ServedModel, arguments: BatchPredictArguments) -> None:
        self._model = model
        self._arguments = arguments
        self._batches = ThreadPoolExecutor(usable_threads() + 1, "batch")
        self._downloads = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, "download")

    def close(self) -> None:
        """Ends the threads; batches that have not begun are dropped."""
        self._batches.shutdown(cancel_futures=True)
        self._downloads.shutdown(cancel_futures=True)

    def lines(self, images: Iterable[InputImage]) -> Iterator[str]:
        """Yields a line for each image, in their order; an image that is no good has a line that says why.

        Raises:
            InterruptedRunError: if Cloud Storage cannot be reached.
        """
        batches = _in_batches(images, self._arguments.batch_size)
        ahead = 2 * usable_threads() + 2
        for lines in _in_order(self._batches, self._lines_of_batch, batches, ahead):
            yield from lines

    def _lines_of_batch(self, batch: Sequence[InputImage]) -> list[str]:
        if is_cloud_path(batch[0].location):
            contents = list(self._downloads.map(self._content, batch))
        else:
            contents = [self._content(image) for image in batch]
        good = [number for number, content in enumerate(contents) if isinstance(content, bytes)]
        answers = dict(
            zip(good, self._predicted([contents[number] for number in good]), strict=True)  # type: ignore[misc]
        )
        lines = []
        for number, (image, content) in enumerate(zip(batch, contents, strict=True)):
            answer = answers.get(number, content)
            if isinstance(answer, Exception):
                lines.append(_line({"key": image.key, "error": _reason(answer)}))
            else:
                lines.append(self._answer_line(image.key, answer))
        return lines

    def _content(self, image: InputImage) -> bytes | Exception:
        """Returns the image's bytes, or why they are no good."""
        try:
            content = image.encoded if image.encoded is not None else read_file(image.location)
            if len(content) > self._arguments.max_image_bytes:
                return ImageError(f"{len(content):,} bytes, more than max_image_bytes")
            check_image_header(content, self._arguments.max_image_pixels)
        except InterruptedRunError:
            # Not the image's fault: the next run goes on here.
            raise
        except (OSError, PipelineError, ImageError) as error:
            return error
        return content

    def _predicted(self, images: list[bytes]) -> list[NDArray[np.float32] | Exception]:
        """Returns the probabilities of each image; of one that cannot be decoded the error.

        The model does not say which of a batch it is: halves are asked until it is alone.
        """
        if not images:
            return []
        try:
            return list(self._model.predict(images).probabilities)
        except InvalidDataError as error:
            if len(images) == 1:
                return [error]
            middle = len(images) // 2
            return self._predicted(images[:middle]) + self._predicted(images[middle:])

    def _answer_line(self, key: str, probabilities: Any) -> str:
        # A tie goes to the lowest class, as in the model.
        best = np.argsort(-probabilities, kind="stable")[: self._arguments.top_k].tolist()
        top = [
            {
                "class": number,
                "label": self._model.labels[number],
                "probability": round(float(probabilities[number]), 7),
            }
            for number in best
        ]
        return _line({"key": key, **top[0], "top": top})


def _line(content: dict[str, Any]) -> str:
    # A file name that is not UTF-8 becomes backslashes and numbers.
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _reason(error: Exception) -> str:
    if isinstance(error, PipelineError):
        return error.problem
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)


def _in_batches(images: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yields the results in the order of the items, of which at most ``ahead`` are under way."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
