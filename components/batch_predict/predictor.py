"""Turns images into lines of JSON: reads and predicts them in batches, several batches at a time."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.inputs import InputImage
from imgpipe.components.batch_predict.worth_labelling import margin_of
from imgpipe.components.common.errors import InterruptedRunError, InvalidDataError, PipelineError
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.served_model import ServedModel
from imgpipe.components.images.checking import ImageError, check_image_header
from imgpipe.components.storage import PARALLEL_DOWNLOADS


class Predictor:
    """Predicts images with one model.

    Several batches are in progress at the same time: while one is in the model's last, narrow layers or waits
    for a file, others decode.

    Args:
        model: The loaded model.
        arguments: ``top_k``, ``batch_size`` and the limits of an image.
        multi_label: Whether an image may have several labels.
    """

    def __init__(
        self, model: ServedModel, arguments: BatchPredictArguments, *, multi_label: bool = False
    ) -> None:
        self._model = model
        self._multi_label = multi_label
        self._arguments = arguments
        self._downloads = ThreadPoolExecutor(PARALLEL_DOWNLOADS, "download")

    def close(self) -> None:
        """Stops the threads."""
        self._downloads.shutdown(cancel_futures=True)

    def lines(self, images: Sequence[InputImage]) -> Iterator[str]:
        """Yields a line for each image, in their order; the line of an invalid image holds the error.

        Raises:
            InterruptedRunError: if a remote store cannot be reached.
        """
        size = self._arguments.batch_size
        batches = (images[begin : begin + size] for begin in range(0, len(images), size))
        for lines in map_in_order(self._predict_lines, batches, usable_threads() + 1):
            yield from lines

    def _predict_lines(self, batch: Sequence[InputImage]) -> list[str]:
        if batch[0].location is not None and not batch[0].location.is_local:
            contents = list(self._downloads.map(self._read, batch))
        else:
            contents = [self._read(image) for image in batch]
        predictions = iter(self._predict([content for content in contents if isinstance(content, bytes)]))
        lines = []
        for image, content in zip(batch, contents, strict=True):
            result = next(predictions) if isinstance(content, bytes) else content
            if isinstance(result, Exception):
                lines.append(_line({"key": image.key, "error": _reason(result)}))
            else:
                lines.append(self._prediction_line(image.key, result))
        return lines

    def _read(self, image: InputImage) -> bytes | Exception:
        """Returns the image file, or the error if it cannot be read or is invalid."""
        try:
            content = image.encoded if image.encoded is not None else _read_file(image)
            if len(content) > self._arguments.max_image_bytes:
                return ImageError(
                    f"{len(content):,} bytes, more than max_image_bytes={self._arguments.max_image_bytes:,}"
                )
            check_image_header(content, self._arguments.max_image_pixels)
        except InterruptedRunError:
            # The store cannot be reached: the next run resumes with this image.
            raise
        except (OSError, PipelineError, ImageError) as error:
            return error
        return content

    def _predict(self, images: list[bytes]) -> list[NDArray[np.float32] | Exception]:
        """Returns the probabilities of each image, or the error if it cannot be decoded.

        TensorFlow does not say which image of a batch it is: the batch is halved until the image is alone.
        """
        if not images:
            return []
        try:
            return list(self._model.predict(images).probabilities)
        except InvalidDataError as error:
            if len(images) == 1:
                return [error]
            middle = len(images) // 2
            return self._predict(images[:middle]) + self._predict(images[middle:])

    def _prediction_line(self, key: str, probabilities: Any) -> str:
        # In a tie, the lowest class comes first, as in the model.
        best = np.argsort(-probabilities, kind="stable")[: self._arguments.top_k].tolist()
        top = [
            {
                "class": number,
                "label": self._model.labels[number],
                "probability": round(float(probabilities[number]), 7),
            }
            for number in best
        ]
        margin = round(margin_of(probabilities, multi_label=self._multi_label), 7)
        return _line({"key": key, **top[0], "margin": margin, "top": top})


def _read_file(image: InputImage) -> bytes:
    if image.location is None:
        raise ImageError(image.problem)
    return image.location.read()


def _line(content: dict[str, Any]) -> str:
    # File names that are not UTF-8 are escaped with backslashes.
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def _reason(error: Exception) -> str:
    if isinstance(error, PipelineError):
        return error.problem
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)
