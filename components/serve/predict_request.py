"""The body of a predict request of TensorFlow Serving's REST API, checked before anything is done with it.

In rows: ``{"signature_name": ..., "instances": [{"image_bytes": {"b64": ...}, "key": ...}, ...]}``; in
columns: ``{"inputs": {"image_bytes": [{"b64": ...}, ...], "key": [...]}}``.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.labels import is_valid_unicode
from imgpipe.components.common.saved_model import DEFAULT_SIGNATURE
from imgpipe.components.images.checking import ImageError, check_image_header

_INPUTS = ("image_bytes", "key")
_FIELDS = {"instances", "inputs", "signature_name"}
# Of a request's own words, as much is said back.
_LONGEST_QUOTE = 60


class RequestError(Exception):
    """A request that is not answered with predictions.

    Args:
        status: Of HTTP: 4xx if it is the request's fault, 503 if it may come again.
        reason: One sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class PredictRequest:
    """A request whose form is right; whether the images can be decoded is not known yet.

    Attributes:
        signature: The name of the model's signature.
        images: Image files.
        keys: One for each image.
        in_rows: Whether the answer is to be in rows.
    """

    signature: str
    images: tuple[bytes, ...]
    keys: tuple[str, ...]
    in_rows: bool


def parse_predict_request(body: bytes, *, max_images: int, max_image_pixels: int) -> PredictRequest:
    """Reads a body.

    Args:
        body: JSON, in UTF-8.
        max_images: The largest number of images.
        max_image_pixels: The largest width times height that an image may claim.

    Raises:
        RequestError: with status 400 or 413, if it is not of one of the two forms, or an image is of no
            known format or too large.
    """
    content = _json(body)
    unknown = set(content) - _FIELDS
    if unknown:
        raise RequestError(
            400, f"unknown field {_quoted(min(unknown))}; known are {', '.join(sorted(_FIELDS))}"
        )
    signature = content.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature, str):
        raise RequestError(400, "signature_name is not a string")
    if ("instances" in content) == ("inputs" in content):
        raise RequestError(400, "give either instances (rows) or inputs (columns)")
    in_rows = "instances" in content
    columns = _columns_of_rows(content["instances"]) if in_rows else _columns(content["inputs"])
    encoded, keys = columns
    if not encoded:
        raise RequestError(400, "there is no image in the request")
    if len(encoded) > max_images:
        raise RequestError(413, f"{len(encoded)} images in one request; at most {max_images} are taken")
    images = tuple(
        _image(value, _place(number, in_rows), max_image_pixels) for number, value in enumerate(encoded)
    )
    for number, key in enumerate(keys):
        if not isinstance(key, str):
            raise RequestError(400, f"{_place(number, in_rows, 'key')} is not a string")
        if not is_valid_unicode(key):
            raise RequestError(
                400, f"{_place(number, in_rows, 'key')} holds half of a surrogate pair, which is no character"
            )
    return PredictRequest(signature, images, tuple(keys), in_rows)


def response_of(request: PredictRequest, answers: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Returns the body of the response, in rows or columns as the request was.

    Args:
        request: As it was parsed.
        answers: The signature's outputs, each with one entry an image.
    """
    columns = {name: _jsonable(values) for name, values in answers.items()}
    if not request.in_rows:
        return {"outputs": columns}
    return {
        "predictions": [
            {name: values[number] for name, values in columns.items()}
            for number in range(len(request.images))
        ]
    }


def _json(body: bytes) -> dict[str, Any]:
    if not body:
        raise RequestError(400, "the body is empty; it should be JSON with instances")
    try:
        content = json.loads(body)
    except RecursionError:
        raise RequestError(400, "the JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise RequestError(400, "the body is not JSON: it is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    except ValueError:
        # What remains is Python's limit on the digits of a whole number.
        raise RequestError(400, "the JSON holds a whole number of too many digits") from None
    if not isinstance(content, dict):
        raise RequestError(400, "the body is not a JSON object with instances or inputs")
    return content


def _columns_of_rows(rows: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(rows, list):
        raise RequestError(400, "instances is not a list")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(_INPUTS):
            raise RequestError(
                400, f"instances[{number}] is not an object with image_bytes and key, and nothing else"
            )
    return [row["image_bytes"] for row in rows], [row["key"] for row in rows]


def _columns(columns: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(columns, dict) or set(columns) != set(_INPUTS):
        raise RequestError(400, "inputs is not an object with image_bytes and key, and nothing else")
    images, keys = columns["image_bytes"], columns["key"]
    if not isinstance(images, list) or not isinstance(keys, list):
        raise RequestError(400, "inputs.image_bytes and inputs.key are not both lists")
    if len(images) != len(keys):
        raise RequestError(
            400, f"there are {len(images)} image_bytes and {len(keys)} keys; give one for each"
        )
    return images, keys


def _image(value: Any, place: str, max_pixels: int) -> bytes:
    if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise RequestError(400, f'{place} is not of the form {{"b64": "..."}}: bytes are sent in base64')
    try:
        data = base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, f"{place} is not base64") from None
    try:
        check_image_header(data, max_pixels)
    except ImageError as error:
        raise RequestError(400, f"{place}: {error}") from None
    return data


def _place(number: int, in_rows: bool, name: str = "image_bytes") -> str:
    return f"instances[{number}].{name}" if in_rows else f"inputs.{name}[{number}]"


def _jsonable(values: NDArray[Any]) -> Any:
    # TensorFlow's strings arrive as an array of bytes objects.
    if values.dtype == np.object_:
        return np.vectorize(lambda text: text.decode("utf-8", "replace"), otypes=[object])(values).tolist()
    return values.tolist()


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "...")
