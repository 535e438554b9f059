"""Image files in the body of a request: a form (``curl -F image=@photo.jpg``) or a single image."""

from collections.abc import AsyncGenerator, Mapping

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from imgpipe.components.serve.predict_request import PredictRequest, RequestError, check_image, check_key

FORM = "multipart/form-data"
_SIGNATURE_FIELD = "signature_name"
_EXAMPLE = "curl -F image=@photo.jpg"


class _FormParser(MultiPartParser):
    # Files stay in memory: the body, whose size is limited, is already there.
    spool_max_size = 0


def is_upload(content_type: str) -> bool:
    """Returns whether a body of this ``Content-Type`` is a form with files, or an image file."""
    media_type = _media_type(content_type)
    return media_type == FORM or media_type.startswith("image/")


async def parse_upload(
    body: bytes, content_type: str, *, default_signature: str, max_images: int, max_image_pixels: int
) -> PredictRequest:
    """Parses and validates an upload; each image's key is its file name, or its number without one.

    Args:
        body: An image file, or a form: its fields with a file are the images, whatever their names;
            ``signature_name`` is optional.
        content_type: For which ``is_upload`` is true.
        default_signature: The signature without the field ``signature_name``.
        max_images: Largest number of images.
        max_image_pixels: Largest width times height in an image's header.

    Raises:
        RequestError: with status 400 or 413, if the form is not valid, or an image has an unknown format or
            is too large.
    """
    if not body:
        raise RequestError(400, f"the body is empty; send an image, e.g. with {_EXAMPLE}")
    signature = default_signature
    files: list[tuple[str, bytes]] = [("", body)]
    if _media_type(content_type) == FORM:
        fields, files = await _parse_form(body, content_type)
        unknown = set(fields) - {_SIGNATURE_FIELD}
        if unknown:
            raise RequestError(
                400,
                f"the form's field {min(unknown)[:60]!r} has no file; send each image as a file: {_EXAMPLE}",
            )
        signature = fields.get(_SIGNATURE_FIELD) or default_signature
    if not files:
        raise RequestError(400, f"the form has no file; send an image, e.g. with {_EXAMPLE}")
    if len(files) > max_images:
        raise RequestError(413, f"the request has {len(files)} images; at most {max_images} are allowed")
    keys = tuple(name or str(number) for number, (name, _) in enumerate(files))
    for key, (_, data) in zip(keys, files, strict=True):
        check_key(key, "a file's name")
        check_image(data, key, max_image_pixels)
    return PredictRequest(signature, tuple(data for _, data in files), keys, by_row=True)


async def _parse_form(body: bytes, content_type: str) -> tuple[Mapping[str, str], list[tuple[str, bytes]]]:
    """Returns the fields without a file, and the names and contents of the files."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _FormParser(Headers({"content-type": content_type}), stream()).parse()
    except MultiPartException as error:
        raise RequestError(400, f"the form is not valid multipart/form-data: {error.message}") from None
    fields: dict[str, str] = {}
    files: list[tuple[str, bytes]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append((value.filename or "", await value.read()))
        else:
            fields[name] = value
    return fields, files


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
