"""The body of a predict request in TensorFlow Serving's REST API, and its validation.

By row: ``{"signature_name": ..., "instances": [{"image_bytes": {"b64": ...}, "key": ...}, ...]}``;
by column: ``{"inputs": {"image_bytes": [{"b64": ...}, ...], "key": [...]}}``. ``key`` is optional, by default
the image's number. ``parameters``, which Vertex AI sends, is ignored.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.labels import is_valid_unicode
from imgpipe.components.common.saved_model import DEFAULT_SIGNATURE
from imgpipe.components.images.checking import ImageError, check_image_header

_IMAGE, _KEY = "image_bytes", "key"
_FIELDS = {"instances", "inputs", "signature_name", "parameters"}
# Longer field names of a request are truncated in error messages.
_MAX_QUOTED_CHARACTERS = 60


class RequestError(Exception):
    """A request that gets an error response.

    Args:
        status: HTTP status: 4xx if the request is invalid, 503 if the client may retry.
        reason: One sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class PredictRequest:
    """A well-formed request; its images may still turn out to be damaged.

    Attributes:
        signature: The name of the model's signature.
        images: Image files.
        keys: One for each image.
        by_row: Whether the response is by row, as opposed to by column.
    """

    signature: str
    images: tuple[bytes, ...]
    keys: tuple[str, ...]
    by_row: bool


def parse_predict_request(body: bytes, *, max_images: int, max_image_pixels: int) -> PredictRequest:
    """Parses and validates a body.

    Args:
        body: JSON, in UTF-8.
        max_images: Largest number of images.
        max_image_pixels: Largest width times height in an image's header.

    Raises:
        RequestError: with status 400 or 413, if the body has neither of the two forms, or an image has an
            unknown format or is too large.
    """
    content = _json(body)
    unknown = set(content) - _FIELDS
    if unknown:
        raise RequestError(
            400, f"unknown field {_quoted(min(unknown))}; the fields are {', '.join(sorted(_FIELDS))}"
        )
    signature = content.get("signature_name", "")
    if not isinstance(signature, str):
        raise RequestError(400, "signature_name is not a string")
    if ("instances" in content) == ("inputs" in content):
        raise RequestError(400, "give either instances (by row) or inputs (by column)")
    by_row = "instances" in content
    encoded, keys = _from_rows(content["instances"]) if by_row else _from_columns(content["inputs"])
    if not encoded:
        raise RequestError(400, "the request has no images")
    if len(encoded) > max_images:
        raise RequestError(413, f"the request has {len(encoded)} images; at most {max_images} are allowed")
    images = tuple(
        _image(value, _path(number, by_row), max_image_pixels) for number, value in enumerate(encoded)
    )
    for number, key in enumerate(keys):
        check_key(key, _path(number, by_row, "key"))
    return PredictRequest(signature or DEFAULT_SIGNATURE, images, tuple(keys), by_row)


def predict_response(request: PredictRequest, outputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Returns the body of the response, by row or by column like the request.

    Args:
        request: The request.
        outputs: The signature's outputs, each with one entry per image.
    """
    columns = {name: _jsonable(values) for name, values in outputs.items()}
    if not request.by_row:
        return {"outputs": columns}
    return {
        "predictions": [
            {name: values[number] for name, values in columns.items()}
            for number in range(len(request.images))
        ]
    }


def check_key(key: Any, path: str) -> None:
    """Raises ``RequestError`` if a key cannot be returned in a response; ``path`` is its place there."""
    if not isinstance(key, str):
        raise RequestError(400, f"{path} is not a string")
    if not is_valid_unicode(key):
        raise RequestError(400, f"{path} contains half of a surrogate pair, not a character")


def check_image(data: bytes, path: str, max_pixels: int) -> None:
    """Raises ``RequestError`` if an image has an unknown format or too many pixels.

    Args:
        data: An image file; only its header is checked.
        path: Its place in the request.
        max_pixels: Largest width times height.
    """
    try:
        check_image_header(data, max_pixels)
    except ImageError as error:
        raise RequestError(400, f"{path}: {error}") from None


def _json(body: bytes) -> dict[str, Any]:
    if not body:
        raise RequestError(400, "the body is empty; send a JSON object with instances or inputs")
    try:
        content = json.loads(body)
    except RecursionError:
        raise RequestError(400, "the JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise RequestError(400, "the body is not JSON: it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    except ValueError:
        # Python limits the number of digits of an integer.
        raise RequestError(400, "the JSON contains an integer with too many digits") from None
    if not isinstance(content, dict):
        raise RequestError(400, "the body is not a JSON object with instances or inputs")
    return content


def _from_rows(rows: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(rows, list):
        raise RequestError(400, "instances is not a list")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not {_IMAGE} <= set(row) <= {_IMAGE, _KEY}:
            raise RequestError(
                400, f"instances[{number}] is not an object with image_bytes and, optionally, key only"
            )
    return [row[_IMAGE] for row in rows], [row.get(_KEY, str(number)) for number, row in enumerate(rows)]


def _from_columns(columns: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(columns, dict) or not {_IMAGE} <= set(columns) <= {_IMAGE, _KEY}:
        raise RequestError(400, "inputs is not an object with image_bytes and, optionally, key only")
    images = columns[_IMAGE]
    if not isinstance(images, list):
        raise RequestError(400, "inputs.image_bytes is not a list")
    keys = columns.get(_KEY, [str(number) for number in range(len(images))])
    if not isinstance(keys, list):
        raise RequestError(400, "inputs.key is not a list")
    if len(images) != len(keys):
        raise RequestError(
            400, f"inputs has {len(images)} image_bytes but {len(keys)} keys; give one key for each image"
        )
    return images, keys


def _image(value: Any, path: str, max_pixels: int) -> bytes:
    if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise RequestError(400, f'{path} is not of the form {{"b64": "..."}}: encode the bytes as base64')
    # TensorFlow Serving skips white space too; base64.encodebytes writes line ends.
    text = "".join(value["b64"].split())
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, f"{path} is not base64{_base64_hint(text)}") from None
    check_image(data, path, max_pixels)
    return data


def _base64_hint(text: str) -> str:
    """Returns what a text is that looks like base64, for an error message; "" if that is unknown."""
    if text.startswith("data:"):
        return ": it is a data URI; send only what follows the comma"
    if text.startswith(("b'", 'b"')):
        return ": it is Python's notation of bytes; decode() them to text first"
    if re.fullmatch(r"[A-Za-z0-9_-]+=*", text):
        return ": it has the URL-safe alphabet, or is cut off; use the standard alphabet with + and /"
    return ""


def _path(number: int, by_row: bool, name: str = "image_bytes") -> str:
    return f"instances[{number}].{name}" if by_row else f"inputs.{name}[{number}]"


def _jsonable(values: NDArray[Any]) -> Any:
    # TensorFlow's strings arrive as an array of bytes objects.
    if values.dtype == np.object_:
        return np.vectorize(lambda text: text.decode("utf-8", "replace"), otypes=[object])(values).tolist()
    return values.tolist()


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED_CHARACTERS else text[:_MAX_QUOTED_CHARACTERS] + "...")
