import asyncio

import httpx
import pytest

from imgpipe.components.serve.image_upload import is_upload, parse_upload
from imgpipe.components.serve.predict_request import RequestError


def form(files, **fields):
    """The body and the Content-Type that a client sends for a form."""
    request = httpx.Request("POST", "http://localhost/", files=files, data=fields)
    return request.read(), request.headers["content-type"]


def parse(body, content_type):
    assert is_upload(content_type)
    limits = {"max_images": 2, "max_image_pixels": 10_000}
    return asyncio.run(parse_upload(body, content_type, default_signature="top_labels", **limits))


def rejection(body, content_type):
    with pytest.raises(RequestError) as caught:
        parse(body, content_type)
    return caught.value.status, caught.value.reason


def test_the_files_of_a_form_are_the_images_with_their_names_as_keys(photo):
    request = parse(*form([("image", ("größer.jpg", photo)), ("x", ("b.jpg", photo))]))
    assert request.images == (photo, photo)
    assert request.keys == ("größer.jpg", "b.jpg")
    assert request.signature == "top_labels"
    assert request.by_row


def test_a_form_can_name_the_signature(photo):
    assert parse(*form([("image", ("a.jpg", photo))], signature_name="classify")).signature == "classify"


def test_an_image_can_be_the_body(photo):
    request = parse(photo, "image/jpeg")
    assert (request.images, request.keys) == ((photo,), ("0",))


def test_other_content_types_are_json():
    assert not is_upload("")
    assert not is_upload("application/json; charset=utf-8")
    # What curl sends for -d.
    assert not is_upload("application/x-www-form-urlencoded")


def test_an_upload_that_is_not_valid_is_rejected_with_the_reason(photo):
    body, content_type = form([("image", ("a.jpg", photo))])
    assert rejection(b"", content_type) == (
        400,
        "the body is empty; send an image, e.g. with curl -F image=@photo.jpg",
    )
    assert rejection(b"x", "multipart/form-data")[0] == 400
    assert rejection(body, "multipart/form-data; boundary=other")[0] == 400
    assert rejection(*form([("image", ("a.jpg", b"no image"))]))[1].startswith("a.jpg: ")
    assert rejection(*form([("image", ("a.jpg", photo))] * 3))[0] == 413
    # curl without the @ sends the name of the file.
    assert (
        "field 'image' has no file" in rejection(*form([("other", ("a.jpg", photo))], image="photo.jpg"))[1]
    )


def test_a_truncated_form_is_rejected_or_parsed_to_the_whole_file(photo):
    body, content_type = form([("image", ("a.jpg", photo))])
    statuses = set()
    for length in range(len(body)):
        try:
            request = parse(body[:length], content_type)
        except RequestError as error:
            statuses.add(error.status)
        else:
            assert request.images == (photo,)
    assert statuses == {400}
